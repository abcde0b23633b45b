//! Names, and groups of them that take turns.

use super::Shape;

/// A run of numbers under one prefix: each name is given once.
#[derive(Debug)]
pub struct Names {
    prefix: &'static str,
    next: u64,
}

impl Names {
    /// Names `prefix-0`, `prefix-1` and so on.
    pub fn new(prefix: &'static str) -> Self {
        Names { prefix, next: 0 }
    }

    /// The next one.
    pub fn fresh(&mut self) -> String {
        let name = format!("{}-{}", self.prefix, self.next);
        self.next += 1;
        name
    }
}

/// Groups of SKUs, of which one is in use at a time. A search over a history is only quick where few calls
/// concern one SKU, and a list of movements has to fit one page.
#[derive(Debug)]
pub struct Rotation {
    groups: Vec<Vec<String>>,
    current: usize,
    calls: u64,
    calls_each: u64,
}

impl Rotation {
    /// As many groups of `size` SKUs as a run of this shape can use up, at `calls_each` calls a group.
    pub fn new(prefix: &str, size: usize, calls_each: u64, shape: &Shape) -> Self {
        let count = shape.calls().div_ceil(calls_each) + 1;
        let group = |number| (0..size).map(|member| format!("{prefix}-{number}-{member}")).collect();
        Rotation { groups: (0..count).map(group).collect(), current: 0, calls: 0, calls_each }
    }

    /// The group to use for the next call. The last one stays.
    pub fn turn(&mut self) -> (usize, &[String]) {
        self.calls += 1;
        if self.calls > self.calls_each && self.current + 1 < self.groups.len() {
            (self.calls, self.current) = (1, self.current + 1);
        }
        (self.current, &self.groups[self.current])
    }

    /// The group in use, and those before it.
    pub fn used(&self) -> &[Vec<String>] {
        &self.groups[..=self.current]
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.groups.iter().flatten()
    }
}
