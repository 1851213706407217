//! MLX on Linux: the library from its published package, mlx-c and our own C++
//! compiled against it, bindings, and the cargo configuration that joins them.
//!
//! The published `mlx-sys` builds for Apple's platforms only. Cargo lets a
//! configuration replace the build script of a package that declares `links`,
//! and that is what `.cargo/mlx.toml`, written here, does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Result;
use crate::bindings;
use crate::compile::{self, Unit};
use crate::packages::{LIBCLANG, MLX_CPU, MLX_CUDA_12, MLX_CUDA_13, OPENBLAS, Package};
use crate::place::{self, output_of};

/// Our own C++, relative to the repository.
const OWN_SOURCES: &str = "src/engine/mlx/native";
const OWN_LIBRARY: &str = "roundhouse_native";

/// Compiler flags of sources that are called only where the processor can.
const AVX2: &[&str] = &["-mavx2", "-mfma", "-mf16c"];
const AVX512: &[&str] = &[
    "-mavx2",
    "-mfma",
    "-mf16c",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
];

/// Provides everything and writes `.cargo/mlx.toml`.
pub fn provide() -> Result<()> {
    if cfg!(target_os = "macos") {
        println!("mlx: on a Mac the published build is used as it is");
        return Ok(());
    }
    if !cfg!(target_os = "linux") {
        return Err("MLX is provided on Linux and macOS only; build with \
                    --no-default-features to leave the embedded engine out"
            .into());
    }
    let mlx_package = chosen_package()?;
    OPENBLAS.provide(&place::native())?;
    let mlx_sys = mlx_sys_folder()?;
    let mlx_c = mlx_sys.join("src/mlx-c");
    check_version(&mlx_c, mlx_package)?;
    let setup = Setup {
        mlx: mlx_package.provide(&place::native())?.join("mlx"),
        folder: place::native().join(mlx_package.name),
        package: mlx_package,
        mlx_c,
        compiler: compile::compiler_version()?,
    };
    let archive = setup.mlx_c_library()?;
    setup.own_library()?;
    let bindings = setup.bindings()?;
    setup.write_configuration(&archive, &bindings)
}

struct Setup {
    package: &'static Package,
    /// The unpacked `mlx` folder: `include`, `lib`.
    mlx: PathBuf,
    /// The sources of mlx-c inside the `mlx-sys` package.
    mlx_c: PathBuf,
    /// Everything made for this choice of MLX.
    folder: PathBuf,
    compiler: String,
}

/// The package that `ROUNDHOUSE_MLX` asks for; without it the one for the CPU.
fn chosen_package() -> Result<&'static Package> {
    match std::env::var("ROUNDHOUSE_MLX").as_deref() {
        Err(_) | Ok("" | "cpu") => Ok(&MLX_CPU),
        Ok("cuda12") => Ok(&MLX_CUDA_12),
        Ok("cuda13") => Ok(&MLX_CUDA_13),
        Ok(other) => {
            Err(format!("ROUNDHOUSE_MLX is '{other}', expected cpu, cuda12 or cuda13").into())
        }
    }
}

/// Where cargo keeps the `mlx-sys` package of `Cargo.lock`.
fn mlx_sys_folder() -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", &host_triple()?])
        .current_dir(place::repository());
    let metadata: Value = serde_json::from_str(&output_of(&mut cargo)?)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .filter(|package| package["name"] == "mlx-sys")
        .find_map(|package| package["manifest_path"].as_str())
        .ok_or("Cargo.lock has no package mlx-sys")?;
    let folder = Path::new(manifest)
        .parent()
        .ok_or("a manifest outside of any folder")?;
    Ok(folder.to_path_buf())
}

/// The target that rustc builds for by default.
fn host_triple() -> Result<String> {
    let said = output_of(Command::new("rustc").arg("-vV"))?;
    let triple = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(triple.ok_or("rustc -vV names no host")?.to_string())
}

/// The library must be the very version that mlx-c was written for: its
/// interface is C++ and promises nothing between versions.
fn check_version(mlx_c: &Path, package: &Package) -> Result<()> {
    let path = mlx_c.join("CMakeLists.txt");
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let wanted = pinned_version(&text)
        .ok_or_else(|| format!("{} has no line GIT_TAG v…", path.display()))?;
    if wanted != package.version {
        return Err(format!(
            "mlx-sys wants MLX {wanted}, but the set-up pins {} {}; change the version and the \
             hashes in xtask/src/packages.rs together with mlx-sys",
            package.name, package.version
        )
        .into());
    }
    Ok(())
}

fn pinned_version(cmake: &str) -> Option<&str> {
    let (_, rest) = cmake.split_once("GIT_TAG v")?;
    rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()
}

impl Setup {
    /// Compiles mlx-c; gives back the folder of `libmlxc.a`, named after its
    /// content, so that cargo links anew exactly when it changes.
    fn mlx_c_library(&self) -> Result<PathBuf> {
        let bridge = place::repository().join(OWN_SOURCES).join("bridge.h");
        let mut flags = self.flags("-O1");
        flags.extend(["-include".into(), bridge.display().to_string()]);
        let unit = Unit {
            label: "mlx-c",
            sources: files_with(&self.mlx_c.join("mlx/c"), "cpp")?,
            flags,
            also_made_from: self.made_from(&[bridge])?,
            folder: self.folder.join("mlx-c"),
        };
        let objects = unit.objects()?;
        let keys = objects
            .iter()
            .map(|object| fs::read(object.with_extension("key")));
        let keys = keys.collect::<std::io::Result<Vec<_>>>()?.concat();
        let folder = self.folder.join("mlx-c").join(compile::key(&[&keys]));
        let library = folder.join("libmlxc.a");
        if !library.is_file() {
            fs::create_dir_all(&folder)?;
            compile::archive(&library, &objects)?;
        }
        Ok(folder)
    }

    /// Compiles our own C++ into a shared library. It is separate from mlx-c so
    /// that its BLAS is found before MLX's, and so that a change in it does not
    /// make cargo build anything.
    fn own_library(&self) -> Result<()> {
        let folder = place::repository().join(OWN_SOURCES);
        let headers = files_with(&folder, "h")?;
        let mut objects = Vec::new();
        for (instructions, sources) in by_instructions(files_with(&folder, "cpp")?) {
            let mut flags = self.flags("-O3");
            flags.extend(instructions.iter().map(ToString::to_string));
            let unit = Unit {
                label: "own sources",
                sources,
                flags,
                also_made_from: self.made_from(&headers)?,
                folder: self.folder.join("own"),
            };
            objects.extend(unit.objects()?);
        }
        let keys = objects
            .iter()
            .map(|object| fs::read(object.with_extension("key")));
        let keys = keys.collect::<std::io::Result<Vec<_>>>()?.concat();
        let library = self.folder.join(format!("lib{OWN_LIBRARY}.so"));
        let stamp = self.folder.join("own/linked");
        let linked = compile::key(&[&keys]);
        if library.is_file() && fs::read_to_string(&stamp).is_ok_and(|text| text == linked) {
            return Ok(());
        }
        let mut arguments: Vec<String> = objects
            .iter()
            .map(|object| object.display().to_string())
            .collect();
        arguments.push(format!("-L{}", self.mlx.join("lib").display()));
        arguments.extend(["-lmlx", "-lpthread", "-ldl"].map(String::from));
        let packages = [
            OPENBLAS.relative().join("scipy_openblas32/lib"),
            self.relative_mlx(),
        ];
        for package in packages {
            arguments.push(format!("-Wl,-rpath,$ORIGIN/../{}", package.display()));
        }
        // The CUDA libraries are found when the program starts, not here.
        arguments.push("-Wl,--allow-shlib-undefined".into());
        compile::shared_library(&library, &arguments)?;
        place::write_whole(&stamp, linked.as_bytes())
    }

    fn bindings(&self) -> Result<PathBuf> {
        let libclang = LIBCLANG.provide(&place::native())?;
        let folder = self.folder.join("bindings");
        let stamp = folder.join("made-from");
        let headers = files_with(&self.mlx_c.join("mlx/c"), "h")?;
        let made_from = compile::key(&[
            self.made_from(&headers)?.as_bytes(),
            include_bytes!("bindings.rs"),
        ]);
        let is_current = folder.join("bindings.rs").is_file()
            && fs::read_to_string(&stamp).is_ok_and(|present| present == made_from);
        if !is_current {
            println!("mlx: generating bindings");
            bindings::generate(&self.mlx_c, &libclang.join("clang/native"), &folder)?;
            place::write_whole(&stamp, made_from.as_bytes())?;
        }
        Ok(folder)
    }

    fn flags(&self, optimisation: &str) -> Vec<String> {
        let mut flags: Vec<String> = ["-std=c++20", "-fPIC", optimisation]
            .map(String::from)
            .into();
        flags.push(format!("-I{}", self.mlx_c.display()));
        flags.push("-isystem".into());
        flags.push(self.mlx.join("include").display().to_string());
        flags
    }

    /// What every object is made from beside its source.
    fn made_from(&self, headers: &[PathBuf]) -> Result<String> {
        let mut text = format!("{}\n{}\n", self.compiler, self.package.version);
        for header in headers {
            text += &fs::read_to_string(header)?;
        }
        Ok(text)
    }

    fn relative_mlx(&self) -> PathBuf {
        self.package.relative().join("mlx/lib")
    }

    /// Writes `.cargo/mlx.toml`, which the committed configuration includes.
    /// `rpath` is not cargo's: it reaches the build script of the main package
    /// as `DEP_MLX_RPATH`.
    fn write_configuration(&self, archive: &Path, bindings: &Path) -> Result<()> {
        let native = place::native();
        // Binaries lie in `target/<profile>`, tests and examples one deeper; the
        // absolute folders serve those that are built anywhere else.
        let mut rpath = Vec::new();
        for base in [
            "$ORIGIN/../native",
            "$ORIGIN/../../native",
            &native.to_string_lossy(),
        ] {
            rpath.push(format!("{base}/{}", self.package.name));
            rpath.push(format!("{base}/{}", self.relative_mlx().display()));
        }
        let text = format!(
            "# Written by the set-up (`make mlx`); do not edit.\n\
             [target.{triple}.mlx]\n\
             rustc-link-search = [\"native={archive}\", \"native={own}\", \"native={mlx}\"]\n\
             rustc-link-lib = [\"static=mlxc\", \"dylib={OWN_LIBRARY}\", \"dylib=mlx\", \"dylib=stdc++\"]\n\
             rustc-env = {{ OUT_DIR = \"{bindings}\" }}\n\
             rpath = \"{rpath}\"\n",
            triple = host_triple()?,
            archive = archive.display(),
            own = self.folder.display(),
            mlx = self.mlx.join("lib").display(),
            bindings = bindings.display(),
            rpath = rpath.join(":"),
        );
        let path = place::repository().join(".cargo/mlx.toml");
        place::write_whole(&path, text.as_bytes())?;
        println!(
            "mlx: {} {} is ready",
            self.package.name, self.package.version
        );
        Ok(())
    }
}

/// Groups sources by the processor instructions that they may use, which the end
/// of a file's name says. Those for another architecture are left out.
fn by_instructions(sources: Vec<PathBuf>) -> Vec<(&'static [&'static str], Vec<PathBuf>)> {
    let named = |source: &PathBuf, end: &str| {
        let name = source.file_stem().unwrap_or_default().to_string_lossy();
        name.ends_with(end)
    };
    let kinds: [(&str, &'static [&'static str]); 2] = [("_avx2", AVX2), ("_avx512", AVX512)];
    let (special, plain): (Vec<_>, Vec<_>) = sources
        .into_iter()
        .partition(|source| kinds.iter().any(|(end, _)| named(source, end)));
    let mut groups: Vec<(&'static [&'static str], Vec<PathBuf>)> = vec![(&[], plain)];
    if cfg!(target_arch = "x86_64") {
        for (end, flags) in kinds {
            let files = special.iter().filter(|source| named(source, end));
            groups.push((flags, files.cloned().collect()));
        }
    }
    groups
}

/// The files of `folder` with this extension, in order.
fn files_with(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|present| present == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::pinned_version;

    #[test]
    fn the_version_is_read_from_the_tag() {
        let check = |text, expected| assert_eq!(pinned_version(text), expected, "{text}");
        check("    GIT_TAG v0.32.2)\n", Some("0.32.2"));
        check("GIT_TAG v1.0\n  GIT_SHALLOW ON)", Some("1.0"));
        check("GIT_REPOSITORY \"…\"", None);
    }
}
