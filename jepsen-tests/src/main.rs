//! `jepsen-tests`: tries to break Stockroom, and says what came of it.

fn main() {
    println!("jepsen-tests");
}
