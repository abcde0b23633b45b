//! What `list` prints.

use jepsen_tests::cluster::{Needs, machine};
use jepsen_tests::nemesis::{self, Entry};
use jepsen_tests::network::netns;
use jepsen_tests::workload;

/// Workloads, nemeses by kind, networks; and what this machine cannot do, with the reason.
pub fn print() {
    println!("WORKLOADS");
    for workload in workload::ALL {
        println!("  {:<22} {}", workload.name, workload.about);
    }
    let mut kinds: Vec<&str> = Vec::new();
    for entry in nemesis::all() {
        if !kinds.contains(&entry.kind) {
            kinds.push(entry.kind);
        }
    }
    for kind in kinds {
        println!("\nNEMESES: {kind}");
        for entry in nemesis::all().filter(|entry| entry.kind == kind) {
            print_nemesis(entry);
        }
    }
    println!("\nNETWORKS");
    println!("  {:<22} the harness's own TCP proxies between every pair; needs nothing", "loopback");
    println!("  {:<22} a network namespace for each node, on a bridge; needs root and nftables", "netns");
    if let Some(why) = netns::missing() {
        println!("  {:<22} NOT ON THIS MACHINE: {why}", "");
    }
}

fn print_nemesis(entry: &Entry) {
    println!("  {:<22} {}", entry.name, entry.about);
    let needs = (entry.needs)();
    let words = words(&needs);
    if !words.is_empty() {
        println!("  {:<22} needs {}", "", words.join(", "));
    }
    if let Some(why) = machine::missing(&needs) {
        println!("  {:<22} NOT ON THIS MACHINE: {why}", "");
    }
}

fn words(needs: &Needs) -> Vec<String> {
    let mut words = Vec::new();
    let mut add = |needed: bool, what: &str| {
        if needed {
            words.push(what.to_owned());
        }
    };
    add(needs.root, "root");
    add(needs.own_disks, "a loop-mounted file system for each node");
    add(needs.shim, "the fault shim (a C compiler)");
    add(needs.faketime, "libfaketime");
    add(needs.cgroups, "control groups");
    for (program, package) in &needs.programs {
        words.push(format!("{program} (package {package})"));
    }
    if needs.nodes > 0 {
        words.push(format!("--nodes {} or more", needs.nodes));
    }
    for (flag, value) in &needs.settings {
        words.push(format!("{flag} {value}"));
    }
    words
}
