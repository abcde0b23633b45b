//! Tables against the shop's own rows in memory: the same answers, through runs, checkpoints and starts.

use super::*;
use crate::base::MemoryBase;
use crate::cache::Cached;
use crate::disk_base::{DiskBase, DiskOptions};
use crate::fs::RealFileSystem;
use crate::shop::command::{Batch, Command, NewOrderLine, OrderSource, PlaceOrder, Proposal, PutItem};
use crate::shop::command::{Reserve, SettingsChange};
use crate::shop::ids::{CustomerId, IdempotencyKey, Location, OrderName, Quantity, ReservationId, Sku};
use crate::shop::memory::MemoryRows;
use crate::shop::reservation::StockLine;
use crate::shop::state::step;
use crate::shop::version::SERVED;
use crate::snapshot::{Snapshots, Underway};
use crate::store::BaseKind;
use openraft::vote::leader_id_std::CommittedLeaderId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;

/// So few, that there are many runs.
const RUN_ENTRIES: usize = 40;

struct Replica {
    base: Arc<dyn Base>,
    tables: Tables,
    cache: RefCell<RowCache>,
}

impl Replica {
    fn new() -> Self {
        Self::over(Arc::new(MemoryBase::default()))
    }

    fn over(base: Arc<dyn Base>) -> Self {
        let tables = Tables::open_with(base.clone(), Runs::with_run_entries(RUN_ENTRIES)).unwrap();
        Replica { base, tables, cache: RefCell::default() }
    }

    fn apply(&mut self, index: u64, batch: &Batch) -> Vec<Answer> {
        self.cache.borrow_mut().follow(&self.tables);
        let step = step(&Cached { tables: &self.tables, cache: &self.cache }, index, batch).unwrap();
        let log_id = LogIdOf::<TypeConfig>::new(CommittedLeaderId::new(1), index);
        let prepared = self.tables.prepare(log_id, step, &mut self.cache.borrow_mut()).unwrap();
        self.tables.absorb(prepared)
    }

    /// Writes the memtable down, as the checkpointer does.
    fn checkpoint(&mut self) {
        let progress = (keys::PROGRESS.to_vec(), Some(codec::encode_serde(&self.tables.progress).into()));
        let layer = std::mem::take(&mut self.tables.active);
        self.base.write(&mut layer.changes().chain([progress])).unwrap();
    }

    fn restart(self) -> Self {
        Self::over(self.base)
    }
}

fn recompute(layers: &Layers<'_>) -> Result<Sums, StorageError> {
    let mut sums = Sums::default();
    for row in layers.range(&[], keys::PROGRESS) {
        let (key, value) = row?;
        sums.add(&key, &value);
    }
    Ok(sums)
}

fn sku(n: u64) -> Sku {
    Sku::new(&format!("sku-{n}")).unwrap()
}

fn proposal(key: u64, command: Command) -> Proposal {
    let fingerprint = codec::fingerprint(&command);
    let key = IdempotencyKey::new(&format!("key-{key}")).unwrap();
    Proposal { idempotency_key: Some(key), fingerprint, command }
}

fn line(rng: &mut StdRng) -> StockLine {
    StockLine {
        sku: sku(rng.random_range(0..12)),
        location: Location::main(),
        quantity: Quantity::new(rng.random_range(1..9)).unwrap(),
    }
}

fn command(rng: &mut StdRng) -> Command {
    let line = line(rng);
    match rng.random_range(0..10) {
        0 => Command::PutItem(PutItem {
            sku: line.sku,
            name: None,
            price: None,
            attributes: None,
            expected_version: None,
        }),
        1 | 2 => Command::Receive(vec![line]),
        3 => Command::Reserve(Reserve {
            id: Some(ReservationId::new(&format!("r{}", rng.random_range(0..500))).unwrap()),
            ttl_ms: rng.random_range(100..20_000),
            lines: vec![line],
        }),
        4 => {
            Command::CancelReservation(ReservationId::new(&format!("r{}", rng.random_range(0..500))).unwrap())
        }
        _ => {
            let chosen = rng.random_range(0..3_000);
            let StockLine { sku, location, quantity } = line;
            let lines = vec![NewOrderLine { sku, location, quantity, amount_minor: None }];
            Command::PlaceOrder(PlaceOrder {
                name: (chosen % 3 == 0).then(|| OrderName::new(&format!("order-{chosen}")).unwrap()),
                customer_id: (chosen % 2 == 0).then(|| CustomerId::new(&format!("c{}", chosen % 7)).unwrap()),
                currency: None,
                pay_by: (chosen % 5 == 0).then_some(TimestampMs(1_000_000 + rng.random_range(0..300_000))),
                metadata: Default::default(),
                source: OrderSource::Lines(lines),
            })
        }
    }
}

/// One entry. Keys come again, with the same command or another, while their receipts live and later.
fn batch(rng: &mut StdRng, index: u64, history: &mut Vec<Proposal>) -> Batch {
    let mut proposals: Vec<_> = (0..rng.random_range(0..12))
        .map(|_| match history.len() {
            used @ 1.. if rng.random_bool(0.2) => history[rng.random_range(0..used)].clone(),
            used @ 1.. if rng.random_bool(0.05) => Proposal {
                idempotency_key: history[rng.random_range(0..used)].idempotency_key.clone(),
                ..proposal(0, command(rng))
            },
            used => {
                let new = proposal(used as u64, command(rng));
                history.push(new.clone());
                new
            }
        })
        .collect();
    if index == 1 {
        let change = SettingsChange { receipt_retention_ms: Some(60_000), ..SettingsChange::default() };
        let command = Command::Configure(change);
        proposals.push(Proposal { idempotency_key: None, fingerprint: 0, command });
    }
    Batch { stamped_at: TimestampMs(1_000_000 + index * 1_000), proposals }
}

#[test]
fn replicas_answer_as_the_rows_in_memory_do_through_any_starts_and_checkpoints() {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut model, mut history) = (MemoryRows::default(), Vec::new());
    let (mut steady, mut restarted) = (Replica::new(), Replica::new());
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskOptions {
        fs: Arc::new(RealFileSystem),
        dir: dir.path().to_owned(),
        cache_bytes: 1 << 20,
        segment_bytes: 6_000,
    };
    let open = || Replica::over(Arc::new(DiskBase::open(&disk, 1, false).unwrap()));
    let mut on_disk = open();
    for index in 1..=400 {
        let batch = batch(&mut rng, index, &mut history);
        let answers = model.apply(index, &batch).unwrap();
        assert_eq!(steady.apply(index, &batch), answers, "entry {index}");
        assert_eq!(restarted.apply(index, &batch), answers, "entry {index}");
        assert_eq!(on_disk.apply(index, &batch), answers, "entry {index}");
        assert_eq!(steady.tables.progress.fingerprint(), restarted.tables.progress.fingerprint());
        if rng.random_bool(0.2) {
            restarted.checkpoint();
        }
        if rng.random_bool(0.1) {
            restarted.checkpoint();
            restarted = restarted.restart();
        }
        if rng.random_bool(0.2) {
            on_disk.checkpoint();
            assert!(
                on_disk.base.sums(&|_| Ok(())).unwrap().are_those_of(&on_disk.tables.progress),
                "entry {index}"
            );
        }
        if rng.random_bool(0.05) {
            on_disk.checkpoint();
            drop(on_disk);
            on_disk = open();
        }
        for replica in [&steady, &restarted, &on_disk] {
            let sums = recompute(&replica.tables.layers()).unwrap();
            assert!(sums.are_those_of(&replica.tables.progress), "entry {index}");
        }
    }
    let runs = |replica: &Replica, index| replica.tables.runs.sealed_until(index);
    for index in [Index::Receipt, Index::OrderName, Index::Customer] {
        assert!(runs(&steady, index).is_some(), "no run of {index:?} was sealed");
        assert!(runs(&restarted, index).is_some(), "no run of {index:?} was sealed");
    }
    assert!(on_disk.base.sealed().manifest.files().count() > 5, "{:?}", on_disk.base.sealed());
    assert!(steady.tables.head.receipts_from > (0, 100), "receipts were dropped");
    // Whatever is lost or changed below shows, derived rows included.
    restarted.checkpoint();
    let rows: Vec<_> = restarted.base.range(&[], keys::PROGRESS).map(Result::unwrap).collect();
    for (key, value) in rows.iter().step_by(7).chain(rows.last()) {
        let mut changed = value.to_vec();
        match changed.last_mut() {
            Some(last) => *last ^= 1,
            None => changed.push(0),
        }
        for damaged in [None, Some(changed.into())] {
            restarted.base.write(&mut [(key.clone(), damaged)].into_iter()).unwrap();
            let sums = recompute(&restarted.tables.layers()).unwrap();
            assert!(!sums.are_those_of(&restarted.tables.progress), "{key:?}");
        }
        restarted.base.write(&mut [(key.clone(), Some(value.clone()))].into_iter()).unwrap();
    }
    assert!(recompute(&restarted.tables.layers()).unwrap().are_those_of(&restarted.tables.progress));
}

/// One entry of so many commands with new keys, at this second.
fn keyed(seconds: u64, from: u64, commands: u64) -> Batch {
    let command = |n| {
        Command::PutItem(PutItem {
            sku: sku(n),
            name: None,
            price: None,
            attributes: None,
            expected_version: None,
        })
    };
    let mut proposals: Vec<_> = (from..from + commands).map(|n| proposal(n, command(n % 12))).collect();
    let change = SettingsChange { receipt_retention_ms: Some(60_000), ..SettingsChange::default() };
    proposals.push(Proposal { idempotency_key: None, fingerprint: 0, command: Command::Configure(change) });
    Batch { stamped_at: TimestampMs(1_000_000 + seconds * 1_000), proposals }
}

/// A replica whose only run of receipts was dropped, checkpointed; the index of its newest entry.
fn without_runs(base: Arc<dyn Base>) -> (Replica, u64) {
    let mut replica = Replica::over(base);
    replica.apply(1, &keyed(1, 0, RUN_ENTRIES as u64));
    assert_eq!(replica.tables.runs.sealed_until(Index::Receipt), Some((0, 1)));
    replica.checkpoint();
    let mut index = 1;
    while replica.tables.runs.sealed_until(Index::Receipt).is_some() {
        index += 1;
        assert!(index < 10, "the run is never dropped");
        replica.apply(index, &keyed(100 + index, 1_000 + index, 1));
    }
    replica.checkpoint();
    (replica, index)
}

/// Seals another run, and finds what is in it.
fn seal_another(replica: &mut Replica, index: u64) {
    replica.apply(index, &keyed(150, 2_000, RUN_ENTRIES as u64));
    assert!(replica.tables.runs.sealed_until(Index::Receipt).is_some());
    replica.checkpoint();
    let found = replica.tables.find(Index::Receipt, "key-2007").unwrap();
    assert_eq!(found, [Place { epoch: 0, index, slot: 7 }]);
    assert!(recompute(&replica.tables.layers()).unwrap().are_those_of(&replica.tables.progress));
    assert!(replica.base.sums(&|_| Ok(())).unwrap().are_those_of(&replica.tables.progress));
}

#[test]
fn the_number_of_a_run_is_not_used_again_after_every_run_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskOptions {
        fs: Arc::new(RealFileSystem),
        dir: dir.path().to_owned(),
        cache_bytes: 1 << 20,
        segment_bytes: 6_000,
    };
    let open = || Arc::new(DiskBase::open(&disk, 1, true).unwrap());
    let (replica, index) = without_runs(open());
    drop(replica);
    let mut replica = Replica::over(open());
    seal_another(&mut replica, index + 1);
    // However many numbers a node has used: it agrees with the others.
    let (mut steady, _) = without_runs(Arc::new(MemoryBase::default()));
    seal_another(&mut steady, index + 1);
    assert_eq!(replica.tables.progress.fingerprint(), steady.tables.progress.fingerprint());
}

#[test]
fn nor_on_a_node_that_began_with_a_snapshot_from_then() {
    let dir = tempfile::tempdir().unwrap();
    let on = |name: &str| DiskOptions {
        fs: Arc::new(RealFileSystem),
        dir: dir.path().join(name),
        cache_bytes: 1 << 20,
        segment_bytes: 1 << 20,
    };
    let snapshots = |name: &str| Snapshots {
        fs: Arc::new(RealFileSystem),
        dir: dir.path().join(name).join("snapshot"),
        cluster_id: 7,
        group_id: 0,
        served: SERVED,
        underway: Underway::default(),
    };
    let frozen = |replica: &Replica| Frozen {
        layer: Arc::default(),
        base: replica.base.clone(),
        progress: replica.tables.progress.clone(),
        head: replica.tables.head.clone(),
    };
    std::fs::create_dir_all(dir.path().join("from")).unwrap();
    let (from, index) = without_runs(Arc::new(DiskBase::open(&on("from"), 1, false).unwrap()));
    let file = snapshots("from").build(&frozen(&from)).unwrap();
    let (tables, _) = snapshots("to").load(&file, &BaseKind::Disk(on("to"))).unwrap();
    let mut to = Replica::over(tables.base);
    seal_another(&mut to, index + 1);
    snapshots("to").build(&frozen(&to)).unwrap();
    let mut from = from;
    seal_another(&mut from, index + 1);
    assert_eq!(to.tables.progress.fingerprint(), from.tables.progress.fingerprint());
}
