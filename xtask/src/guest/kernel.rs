//! The guest's kernel: Debian's package, fetched and unpacked below `target/guest`, not installed. Kept between runs
//! under its version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{setup, sh};

/// Depends on the newest 6.12 kernel for virtual machines.
const META: &str = "linux-image-6.12-cloud-amd64";

/// Where a package is unpacked until it is whole.
const PART: &str = "part";

/// An unpacked kernel package.
pub(crate) struct Kernel {
    /// Name and version of the package.
    pub(crate) name: String,
    /// What `-kernel` takes.
    pub(crate) image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub(crate) modules: PathBuf,
}

/// The kernel, fetched if this version is not there yet.
pub(crate) fn fetch(work: &Path) -> Result<Kernel> {
    let kernels = work.join("kernel");
    fs::create_dir_all(&kernels).with_context(|| kernels.display().to_string())?;
    let fetched = newest(&kernels).or_else(|error| {
        // Lists that are missing or outdated name no package, or one that is gone.
        eprintln!("guest: {error:#}; updating the package lists");
        setup::apt(&["update", "-q"])?;
        newest(&kernels)
    });
    let dir = fetched.or_else(|error| {
        // Without a network, what is there will do.
        let dir = only(&kernels, whole).map_err(|_| error)?;
        eprintln!("guest: no kernel can be fetched; using {}", dir.display());
        anyhow::Ok(dir)
    })?;
    Ok(Kernel {
        name: dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        image: only(&dir.join("boot"), |name| name.starts_with("vmlinuz-"))?,
        modules: only(&dir.join("lib/modules"), |_| true)?,
    })
}

/// The directory of Debian's present kernel, which is the only one kept.
fn newest(kernels: &Path) -> Result<PathBuf> {
    let package = depends(&sh::output(sh::command("apt-cache", &["depends", META]))?)
        .with_context(|| format!("apt-cache: {META} depends on no kernel"))?;
    let shown = sh::output(sh::command(
        "apt-cache",
        &["show", "--no-all-versions", &package],
    ))?;
    let version = shown.lines().find_map(|l| l.strip_prefix("Version: "));
    let version = version.with_context(|| format!("apt-cache: {package} has no version"))?;
    let dir = kernels.join(format!("{package}_{version}").replace(['/', ':'], "_"));
    if dir.is_dir() {
        return Ok(dir);
    }
    eprintln!("guest: fetching {package} {version}");
    let part = kernels.join(PART);
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part)?;
    // The sandbox's user cannot write here, which apt would only complain of.
    let args = ["-q", "-o", "APT::Sandbox::User=root", "download", &package];
    let mut download = Command::new("apt-get");
    download.args(args).current_dir(&part);
    download.stdout(std::io::stderr());
    sh::run(download)?;
    let deb = only(&part, |name| name.ends_with(".deb"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&deb).arg(part.join("root"));
    sh::run(unpack)?;
    while let Ok(old) = only(kernels, whole) {
        fs::remove_dir_all(old)?;
    }
    fs::rename(part.join("root"), &dir)?;
    fs::remove_dir_all(&part)?;
    Ok(dir)
}

/// Whether a directory of that name is a kernel that was unpacked to its end.
fn whole(name: &str) -> bool {
    name != PART
}

/// The first package that `apt-cache depends` lists.
fn depends(text: &str) -> Option<String> {
    let mut lines = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "));
    lines
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

/// The one entry of `dir` whose name fits.
fn only(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if fits(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    bail!("{} lacks what a kernel package has", dir.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_behind_the_meta_package_is_found() {
        let text = "meta\n  Depends: linux-image-6.12.1+x-cloud-amd64\n  Suggests: y\n";
        assert_eq!(
            depends(text).as_deref(),
            Some("linux-image-6.12.1+x-cloud-amd64")
        );
        assert_eq!(depends("meta\n"), None);
    }
}
