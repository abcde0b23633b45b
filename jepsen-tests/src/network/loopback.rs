//! No root: TCP proxies on loopback.
