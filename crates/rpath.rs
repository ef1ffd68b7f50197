//! Build script of every package whose programs link libtorch: writes the folder of its libraries into them (rpath).

fn main() {
    // Nothing else makes it run again: cargo knows by itself when this file changes.
    println!("cargo:rerun-if-env-changed=DEP_CTSEG_ENGINE_LIBTORCH");
    if let Some(folder) = std::env::var_os("DEP_CTSEG_ENGINE_LIBTORCH") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}
