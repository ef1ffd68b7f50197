//! With the feature `libtorch`: compiles the engine's C++ part against the libtorch that torch-sys found, and passes
//! its library folder to packages whose programs link it (see `../rpath.rs`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "libtorch")]
    libtorch::build();
}

#[cfg(feature = "libtorch")]
mod libtorch {
    use std::path::{Path, PathBuf};

    /// The only version that the engine is written for and tested with.
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
            fail("torch-sys found no libtorch; run scripts/setup-libtorch.sh first");
        };
        let root = lib.parent().unwrap_or(&lib).to_path_buf();
        check_version(&root);
        compile(&root);
        // For this package's own tests and benchmarks.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        // Becomes DEP_CTSEG_ENGINE_LIBTORCH in the build scripts of dependent packages.
        println!("cargo:libtorch={}", lib.display());
    }

    fn check_version(root: &Path) {
        // The first is used since 2.9, the others before.
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
                "{} has no include/torch/headeronly/version.h; expected a libtorch with headers",
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
                "libtorch in {} is version {found}; expected {VERSION}: run scripts/setup-libtorch.sh, or set LIBTORCH to a {VERSION} installation",
                root.display()
            ));
        }
    }

    fn compile(root: &Path) {
        let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
        // Compiled once per instruction set; the best one is selected at run time.
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

    /// Prints one line instead of a panic with a backtrace.
    fn fail(message: &str) -> ! {
        println!("cargo:warning={message}");
        eprintln!("error: {message}");
        std::process::exit(1);
    }
}
