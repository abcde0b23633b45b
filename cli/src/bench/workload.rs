//! What each workload asks for.

use super::real;
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Lines of an order of `mixed`.
const MIXED_LINES: usize = 5;

/// What to do, over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Orders of one line, the SKU drawn evenly
    Uniform,
    /// Orders of one line, all of one SKU
    Hot,
    /// Orders of five different SKUs, drawn evenly
    Mixed,
    /// Orders with as many lines, of such quantities and SKUs, as in a real shop
    Real,
    /// A reservation of one line, then its confirmation
    Reserve,
    /// Orders of one line, many in one `POST /v1/batch`
    Batch,
    /// The stock of one SKU, drawn evenly
    Read,
    /// Many clients, few units of one SKU: exactly those are sold
    Sellout,
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing newer was acknowledged before the read began
    Linearizable,
    /// Not older than what this client has seen
    Session,
    /// Not older than `--max-staleness-ms`
    Bounded,
    /// Whatever the node has
    Stale,
}

impl Level {
    /// As the header `Stockroom-Consistency` has it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Linearizable => "linearizable",
            Level::Session => "session",
            Level::Bounded => "bounded",
            Level::Stale => "stale",
        }
    }
}

/// So many units of the SKU with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// From 0; its name is the run's prefix and this number.
    pub sku: u32,
    /// Units, at least 1.
    pub quantity: u32,
}

/// A workload with its parameters.
#[derive(Debug, Clone)]
pub struct Shape {
    /// What to do.
    pub workload: Workload,
    /// How many SKUs there are.
    pub skus: u32,
    /// Orders in one call of `batch`.
    pub batch_size: u32,
    /// Of `read`.
    pub level: Level,
    /// Of `read` at [`Level::Bounded`].
    pub max_staleness_ms: u64,
}

impl Shape {
    /// `read` and `batch` say which of theirs they are.
    pub fn name(&self) -> String {
        match self.workload {
            Workload::Uniform => "uniform".into(),
            Workload::Hot => "hot".into(),
            Workload::Mixed => "mixed".into(),
            Workload::Real => "real".into(),
            Workload::Reserve => "reserve".into(),
            Workload::Batch => format!("batch {}", self.batch_size),
            Workload::Read => format!("read {}", self.level.name()),
            Workload::Sellout => "sellout".into(),
        }
    }

    /// Orders that one call makes.
    pub fn orders_per_call(&self) -> u64 {
        if self.workload == Workload::Batch { self.batch_size.into() } else { 1 }
    }

    /// What one unit of its throughput is called.
    pub fn unit(&self) -> &'static str {
        match self.workload {
            Workload::Read => "reads",
            Workload::Reserve => "reservations",
            Workload::Sellout => "orders sold",
            _ => "orders",
        }
    }

    /// SKUs where the caller does not choose.
    pub fn default_skus(workload: Workload) -> u32 {
        match workload {
            Workload::Hot | Workload::Sellout => 1,
            Workload::Real => real::SKUS,
            _ => 10_000,
        }
    }

    /// The fewest SKUs from which it can draw different ones.
    pub fn fewest_skus(workload: Workload) -> u32 {
        match workload {
            Workload::Mixed => MIXED_LINES as u32,
            // Twice the longest order, so that drawing another SKU ends soon.
            Workload::Real => 2 * real::MOST_LINES,
            _ => 1,
        }
    }

    /// Draws the lines of one order (or the one SKU to read) into `lines`.
    pub fn draw(&self, rng: &mut impl Rng, lines: &mut Vec<Line>) {
        lines.clear();
        match self.workload {
            Workload::Mixed => self.draw_different(rng, lines, MIXED_LINES, |rng, skus| Line {
                sku: rng.random_range(0..skus),
                quantity: 1,
            }),
            Workload::Real => {
                let count = real::lines(rng) as usize;
                self.draw_different(rng, lines, count, |rng, skus| Line {
                    sku: real::sku(rng, skus),
                    quantity: real::quantity(rng),
                });
            }
            _ => lines.push(Line { sku: rng.random_range(0..self.skus), quantity: 1 }),
        }
    }

    /// A basket names each SKU once.
    fn draw_different<R: Rng>(
        &self,
        rng: &mut R,
        lines: &mut Vec<Line>,
        count: usize,
        mut one: impl FnMut(&mut R, u32) -> Line,
    ) {
        while lines.len() < count {
            let line = one(rng, self.skus);
            if lines.iter().all(|known| known.sku != line.sku) {
                lines.push(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};
    use std::collections::BTreeSet;

    fn shape(workload: Workload, skus: u32) -> Shape {
        Shape { workload, skus, batch_size: 100, level: Level::Stale, max_staleness_ms: 1 }
    }

    fn orders(workload: Workload, skus: u32, seed: u64) -> Vec<Vec<Line>> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut lines = Vec::new();
        let mut draw = || {
            shape(workload, skus).draw(&mut rng, &mut lines);
            lines.clone()
        };
        (0..2_000).map(|_| draw()).collect()
    }

    #[test]
    fn a_seed_decides_every_order() {
        for workload in [Workload::Uniform, Workload::Mixed, Workload::Real] {
            assert_eq!(orders(workload, 10_000, 5), orders(workload, 10_000, 5));
            assert_ne!(orders(workload, 10_000, 5), orders(workload, 10_000, 6));
        }
    }

    #[test]
    fn an_order_names_each_sku_once() {
        for workload in [Workload::Mixed, Workload::Real] {
            for order in orders(workload, Shape::fewest_skus(workload), 1) {
                let skus: BTreeSet<u32> = order.iter().map(|line| line.sku).collect();
                assert_eq!(skus.len(), order.len());
                assert!(workload == Workload::Real || order.len() == MIXED_LINES);
            }
        }
    }

    #[test]
    fn even_draws_reach_every_sku() {
        let seen: BTreeSet<u32> = orders(Workload::Uniform, 50, 2).iter().map(|order| order[0].sku).collect();
        assert_eq!(seen.len(), 50);
        assert!(orders(Workload::Hot, 1, 2).iter().all(|order| order[0] == Line { sku: 0, quantity: 1 }));
    }
}
