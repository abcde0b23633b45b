//! Many runs: `quick`, `full`, `planted`.
