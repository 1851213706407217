//! The Rust declarations of mlx-c, as the build script of `mlx-sys` would make
//! them, but for Linux and with a libclang that is not part of a compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::compile;
use crate::place::{self, output_of};

/// The oldest compiler that `mlx-sys` declares its bindings for.
const RUST_VERSION: &str = "1.73.0";

/// Half-precision types. mlx-c declares them only where the compiler has them,
/// and mlx-rs wants the one as a structure and the other as an integer.
const HALF_TYPES: &str = "#define MLX_HALF_H\n\
     #define HAS_FLOAT16\n\
     #define HAS_BFLOAT16\n\
     #include <stdint.h>\n\
     typedef uint16_t float16_t;\n\
     typedef uint16_t bfloat16_t;\n";
const HALF_STRUCTURE: &str =
    "#[repr(transparent)]\n#[derive(Debug, Default, Copy, Clone)]\npub struct float16_t(pub u16);";

/// Writes `folder/bindings.rs` for all headers of mlx-c.
pub fn generate(mlx_c: &Path, libclang: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let half_types = folder.join("half_types.h");
    place::write_whole(&half_types, HALF_TYPES.as_bytes())?;
    // SAFETY: nothing else runs in this process yet; the compiling threads have ended.
    unsafe { std::env::set_var("LIBCLANG_PATH", libclang) };
    let builder = bindgen::Builder::default()
        .rust_target(RUST_VERSION.parse()?)
        .clang_arg(format!("-I{}", mlx_c.display()))
        // The libclang package comes without the headers of a compiler.
        .clang_arg(format!("-I{}", compiler_headers()?.display()))
        .clang_args(["-include", &half_types.to_string_lossy()])
        .blocklist_function("malloc")
        .blocklist_function("realloc")
        .blocklist_type("float16_t")
        .raw_line(HALF_STRUCTURE);
    let builder = headers(mlx_c)?
        .into_iter()
        .fold(builder, |builder, header| builder.header(header));
    let text = builder.generate()?.to_string();
    place::write_whole(&folder.join("bindings.rs"), text.as_bytes())
}

fn headers(mlx_c: &Path) -> Result<Vec<String>> {
    let mut headers = Vec::new();
    for entry in fs::read_dir(mlx_c.join("mlx/c"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "h") {
            headers.push(path.to_string_lossy().into_owned());
        }
    }
    headers.sort();
    Ok(headers)
}

/// Where the system's compiler keeps `stddef.h` and its like.
fn compiler_headers() -> Result<PathBuf> {
    let mut command = Command::new(compile::compiler());
    let folder = output_of(command.arg("-print-file-name=include"))?;
    Ok(PathBuf::from(folder.trim()))
}
