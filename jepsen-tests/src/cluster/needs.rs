//! What a nemesis needs.

/// What a nemesis needs of the machine and of the way the cluster is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Root.
    pub root: bool,
    /// Programs that must be on the path, each with the package that has it.
    pub programs: Vec<(&'static str, &'static str)>,
    /// A loop-mounted file system of its own for each node's data.
    pub own_disks: bool,
    /// The fault shim, preloaded into every node.
    pub shim: bool,
    /// libfaketime, preloaded into every node.
    pub faketime: bool,
    /// Control groups for CPU and memory.
    pub cgroups: bool,
    /// Another build of the server: see [`machine::other_program`](super::machine::other_program).
    pub other_program: bool,
    /// Settings of the nodes: flag and value.
    pub settings: Vec<(&'static str, String)>,
    /// Fewest nodes with which it makes sense; 0 for any.
    pub nodes: u64,
}

impl Needs {
    /// All that either needs. Where both set one setting the first stays.
    #[must_use]
    pub fn and(mut self, other: Needs) -> Needs {
        self.root |= other.root;
        self.own_disks |= other.own_disks;
        self.shim |= other.shim;
        self.faketime |= other.faketime;
        self.cgroups |= other.cgroups;
        self.other_program |= other.other_program;
        self.nodes = self.nodes.max(other.nodes);
        for program in other.programs {
            if !self.programs.contains(&program) {
                self.programs.push(program);
            }
        }
        for (flag, value) in other.settings {
            if self.settings.iter().all(|(set, _)| *set != flag) {
                self.settings.push((flag, value));
            }
        }
        self
    }
}
