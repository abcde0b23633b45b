//! Root: a network namespace for every node, on a bridge.
