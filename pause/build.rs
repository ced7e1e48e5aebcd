//! Links pause as `link-args` says.

fn main() {
    println!("cargo::rerun-if-changed=link-args");
    println!("cargo::rerun-if-changed=pause.ld");
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    for argument in include_str!("link-args").lines().filter(|line| !line.starts_with('#')) {
        println!("cargo::rustc-link-arg-bins={}", argument.replace("{dir}", &dir));
    }
}
