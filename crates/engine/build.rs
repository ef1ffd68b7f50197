//! With the feature `libtorch`: compiles the C++ part of that engine against the libtorch that torch-sys
//! found, and passes the folder of its libraries on to the packages whose programs link it (see `../rpath.rs`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "libtorch")]
    libtorch::build();
}

#[cfg(feature = "libtorch")]
mod libtorch {
    use std::path::{Path, PathBuf};

    /// The one version that the engine is written for and tested with.
    const VERSION: &str = "2.11.0";
    const SHIM: &str = "src/libtorch/shim";
    const FILES: [&str; 8] = [
        "allocator.cpp",
        "api.cpp",
        "block.cpp",
        "int8.cpp",
        "loss.cpp",
        "norm_act.cpp",
        "optimiser.cpp",
        "shared_norm.cpp",
    ];

    pub fn build() {
        println!("cargo:rerun-if-changed={SHIM}");
        let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
            fail("torch-sys did not say where libtorch lies; run scripts/setup-libtorch.sh first");
        };
        let root = lib.parent().unwrap_or(&lib).to_path_buf();
        check_version(&root);
        compile(&root);
        // For this package's own tests and benches.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        // DEP_CTSEG_ENGINE_LIBTORCH in the build scripts of packages above.
        println!("cargo:libtorch={}", lib.display());
    }

    fn check_version(root: &Path) {
        // The first since 2.9, the others before.
        let places = [
            "torch/headeronly/version.h",
            "torch/csrc/api/include/torch/version.h",
            "torch/version.h",
        ];
        let text = places
            .iter()
            .filter_map(|place| std::fs::read_to_string(root.join("include").join(place)).ok())
            .find(|text| text.contains("define TORCH_VERSION_MAJOR"));
        let Some(text) = text else {
            fail(&format!(
                "{} has no include/torch/headeronly/version.h: it is no libtorch with headers",
                root.display()
            ));
        };
        let number = |part: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(&format!("#define TORCH_VERSION_{part} ")))
                .unwrap_or("?")
                .trim()
                .to_owned()
        };
        let found = format!(
            "{}.{}.{}",
            number("MAJOR"),
            number("MINOR"),
            number("PATCH")
        );
        if found != VERSION {
            fail(&format!(
                "libtorch in {} is version {found}; ctseg is built for {VERSION}: run scripts/setup-libtorch.sh, or let LIBTORCH name a {VERSION}",
                root.display()
            ));
        }
    }

    fn compile(root: &Path) {
        let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
        // Once per instruction set; the best is chosen when the program runs.
        let sets: &[(&str, &[&str])] = if x86 {
            &[
                ("base", &[]),
                ("avx2", &["-mavx2", "-mfma"]),
                (
                    "avx512",
                    &[
                        "-mavx512f",
                        "-mavx512bw",
                        "-mavx512vl",
                        "-mavx512dq",
                        "-mfma",
                        "-mprefer-vector-width=512",
                    ],
                ),
            ]
        } else {
            &[("base", &[])]
        };
        for (name, flags) in sets {
            let mut build = cc::Build::new();
            build
                .cpp(true)
                .opt_level(3)
                .debug(false)
                .flag("-fno-math-errno")
                .flag("-fno-trapping-math")
                .define("CTSEG_ISA", *name)
                .file(format!("{SHIM}/kernels.cpp"));
            for flag in *flags {
                build.flag(flag);
            }
            build.compile(&format!("ctseg_kernels_{name}"));
        }
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .opt_level(2)
            .debug(false)
            .std("c++17")
            .flag("-fopenmp")
            .warnings(false)
            .define("_GLIBCXX_USE_CXX11_ABI", "1")
            .include(root.join("include"))
            .include(root.join("include/torch/csrc/api/include"))
            .files(FILES.map(|file| format!("{SHIM}/{file}")));
        if x86 {
            build.define("CTSEG_X86", None);
        }
        build.compile("ctseg_shim");
        for (name, _) in sets {
            println!("cargo:rustc-link-lib=static=ctseg_kernels_{name}");
        }
        for library in ["torch_cpu", "torch", "c10", "gomp"] {
            println!("cargo:rustc-link-lib={library}");
        }
    }

    /// One line, not a panic with a backtrace.
    fn fail(message: &str) -> ! {
        println!("cargo:warning={message}");
        eprintln!("error: {message}");
        std::process::exit(1);
    }
}
