//! Tells the crate whether it is built in the cargo profile `planted`, the only one in which the feature of
//! that name may be on.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(planted_profile)");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    // target/[triple/]PROFILE/build/...: cargo tells a build script `release` for each profile that inherits it.
    let build = Path::new(&out).ancestors().find(|path| path.file_name().is_some_and(|name| name == "build"));
    let profile = build.and_then(Path::parent).and_then(Path::file_name);
    if profile.is_some_and(|name| name == "planted") {
        println!("cargo:rustc-cfg=planted_profile");
    }
}
