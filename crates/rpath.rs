//! Build script of every package whose programs link libtorch: writes the folder of its libraries into them (rpath).

fn main() {
    println!("cargo:rerun-if-changed={}", file!());
    println!("cargo:rerun-if-env-changed=DEP_CTSEG_ENGINE_LIBTORCH");
    if let Some(folder) = std::env::var_os("DEP_CTSEG_ENGINE_LIBTORCH") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}
