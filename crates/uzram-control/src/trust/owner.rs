//! The walk along a path: opens one component after the other without following symbolic links, and looks at the owner
//! and mode of each. A link is followed by hand where its owner is trusted.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Links on one way, at most: the kernel's own limit.
const MAX_LINKS: u32 = 40;
/// Longest list of users or groups that is read.
const MAX_LIST: u64 = 16 << 20;

/// Why a path is not trusted: another user could change what it leads to, now or later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// Another user owns it.
    #[error("{} belongs to user {uid}", path.display())]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Others may write to it.
    #[error("others may write to {} (mode {mode:04o})", path.display())]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It cannot be looked at.
    #[error("{}: {source}", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Distrust {
    pub(super) fn system(path: &Path, source: impl Into<io::Error>) -> Distrust {
        Distrust::System {
            path: path.into(),
            source: source.into(),
        }
    }
}

/// Where a path leads.
pub(super) struct ResolvedPath {
    /// The path without symbolic links or `..`.
    pub(super) real: PathBuf,
    /// A descriptor of what is there, for looking only; `None` where there is nothing yet.
    pub(super) found: Option<(OwnedFd, Stat)>,
}

/// Follows an absolute path. Each directory and link on the way must be root's or this user's, and no one else may write
/// to a directory, unless it is sticky as `/tmp`: there only the owner of an entry can move it. What the path leads to is
/// for the caller to judge. With `make`, directories that are not there are made, for this user alone.
pub(super) fn walk(path: &Path, make: bool) -> Result<ResolvedPath, Distrust> {
    let root = open(CWD, Path::new("/")).map_err(|e| Distrust::system(path, e))?;
    let trusted = Trusted::new(&root.1);
    let mut todo = names(path);
    todo.reverse();
    let mut real = PathBuf::from("/");
    let mut way = vec![root];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if way.len() > 1 {
                way.pop();
                real.pop();
            }
            continue;
        }
        // The way is never empty: the root stays.
        let Some((here, stat)) = way.last() else {
            return Err(Distrust::system(path, Errno::NOENT));
        };
        if kind(stat) != FileType::Directory {
            return Err(Distrust::system(&real, Errno::NOTDIR));
        }
        trusted.check_directory(&real, here, stat)?;
        let at = real.join(&name);
        let found = match open(here, Path::new(&name)) {
            Err(Errno::NOENT) if make => {
                match rustix::fs::mkdirat(here, &name, Mode::RWXU) {
                    // Made by another process of ours, perhaps: the look at it tells.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(Distrust::system(&at, error)),
                }
                open(here, Path::new(&name))
            }
            found => found,
        };
        let (fd, stat) = match found {
            Ok(found) => found,
            Err(Errno::NOENT) if todo.is_empty() => {
                return Ok(ResolvedPath {
                    real: at,
                    found: None,
                });
            }
            Err(error) => return Err(Distrust::system(&at, error)),
        };
        if kind(&stat) != FileType::Symlink {
            real = at;
            way.push((fd, stat));
            continue;
        }
        trusted.check_owner(&at, &stat)?;
        links += 1;
        if links > MAX_LINKS {
            return Err(Distrust::system(path, Errno::LOOP));
        }
        let target = rustix::fs::readlinkat(&fd, "", Vec::new());
        let target = target.map_err(|error| Distrust::system(&at, error))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            way.truncate(1);
            real = "/".into();
        }
        todo.extend(names(&target).into_iter().rev());
    }
    Ok(ResolvedPath {
        real,
        found: way.pop(),
    })
}

/// The components of a path, `..` among them. The root and `.` are none.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

fn open(at: impl AsFd, name: &Path) -> Result<(OwnedFd, Stat), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    Ok((fd, stat))
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Who is trusted: root, this user, and whoever owns the root directory. In a user namespace that is root outside of it,
/// who has no number there.
struct Trusted {
    user: u32,
    root_owner: u32,
}

impl Trusted {
    fn new(root: &Stat) -> Trusted {
        Trusted {
            user: rustix::process::geteuid().as_raw(),
            root_owner: root.st_uid,
        }
    }

    fn check_owner(&self, path: &Path, stat: &Stat) -> Result<(), Distrust> {
        if [0, self.user, self.root_owner].contains(&stat.st_uid) {
            return Ok(());
        }
        Err(Distrust::Owner {
            path: path.into(),
            uid: stat.st_uid,
        })
    }

    fn check_directory(&self, path: &Path, fd: &OwnedFd, stat: &Stat) -> Result<(), Distrust> {
        self.check_owner(path, stat)?;
        let sticky = stat.st_mode & Mode::SVTX.bits() != 0;
        if sticky || !others_may_write(fd, stat) {
            return Ok(());
        }
        Err(writable(path, stat))
    }
}

fn writable(path: &Path, stat: &Stat) -> Distrust {
    Distrust::Writable {
        path: path.into(),
        mode: stat.st_mode & 0o7777,
    }
}

/// Whether anybody but owner and root may write. A group of which nobody else is a member is no one else: many systems
/// give each user such a group, and files that the group may write.
fn others_may_write(fd: &OwnedFd, stat: &Stat) -> bool {
    if stat.st_mode & 0o002 != 0 {
        return true;
    }
    stat.st_mode & 0o020 != 0 && (!is_own_group(stat) || has_acl(fd))
}

/// Whether an access control list names further users: the group's bits are the most that it grants.
fn has_acl(fd: &OwnedFd) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut none: [u8; 0] = [];
    let length = rustix::fs::getxattr(path, "system.posix_acl_access", &mut none[..]);
    !matches!(length, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// Whether the group of a file has no member but the file's owner, as far as the system's own lists say it.
fn is_own_group(stat: &Stat) -> bool {
    let read = |path: &str| {
        let meta = fs::metadata(path).ok().filter(|m| m.len() <= MAX_LIST)?;
        meta.is_file().then(|| fs::read_to_string(path).ok())?
    };
    match (read("/etc/passwd"), read("/etc/group")) {
        (Some(users), Some(groups)) => has_one_member(&users, &groups, stat.st_gid, stat.st_uid),
        _ => false,
    }
}

fn has_one_member(users: &str, groups: &str, gid: u32, uid: u32) -> bool {
    // name:password:uid:gid:..., and name:password:gid:members
    let number = |text: Option<&&str>| text.and_then(|text| text.parse::<u32>().ok());
    let mut owner = None;
    for line in users.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        match (number(fields.get(2)), number(fields.get(3))) {
            (Some(user), _) if user == uid => owner = owner.or(fields.first().copied()),
            (_, Some(group)) if group == gid => return false,
            _ => {}
        }
    }
    let mut found = false;
    for line in groups.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if number(fields.get(2)) != Some(gid) {
            continue;
        }
        found = true;
        let mut members = fields.get(3).unwrap_or(&"").split(',');
        if members.any(|member| !member.is_empty() && Some(member) != owner) {
            return false;
        }
    }
    found
}

/// Refuses a file, disk or socket that another user owns or may write, or may put in the place of this one. What is not
/// there yet is judged by its directory. The group of a disk's node is the system's affair, mostly `disk`; who may write
/// to a socket is who may connect to it.
pub fn check_file(path: &Path) -> Result<(), Distrust> {
    let place = walk(path, false)?;
    let Some((fd, stat)) = &place.found else {
        return Ok(());
    };
    let root = open(CWD, Path::new("/")).map_err(|e| Distrust::system(path, e))?;
    Trusted::new(&root.1).check_owner(&place.real, stat)?;
    let open_to_others = match kind(stat) {
        FileType::Socket | FileType::Directory => false,
        FileType::BlockDevice | FileType::CharacterDevice => stat.st_mode & 0o002 != 0,
        _ => others_may_write(fd, stat),
    };
    match open_to_others {
        true => Err(writable(&place.real, stat)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn links_and_parents_are_followed_to_the_real_path() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("a/b")).unwrap();
        symlink("a/b/..", base.join("relative")).unwrap();
        symlink(base.join("a"), base.join("absolute")).unwrap();
        for (path, real) in [
            ("a/b", "a/b"),
            ("relative/b", "a/b"),
            ("absolute/./b/../new", "a/new"),
            ("new", "new"),
        ] {
            let place = walk(&base.join(path), false).unwrap();
            assert_eq!(place.real, base.join(real), "{path}");
            assert_eq!(place.found.is_some(), !real.ends_with("new"));
        }
        symlink("loop", base.join("loop")).unwrap();
        for path in ["loop", "no/such", "relative/b/x/y"] {
            assert!(walk(&base.join(path), false).is_err(), "{path}");
        }
        let made = walk(&base.join("deep/er"), true).unwrap();
        assert!(made.found.is_some());
        let mode = fs::metadata(base.join("deep")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
    }

    #[test]
    fn what_others_may_write_is_refused_on_the_whole_way() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        let file = base.join("file");
        fs::write(&file, "x").unwrap();
        assert!(check_file(&file).is_ok());
        set_mode(&file, 0o666);
        let error = check_file(&file).unwrap_err().to_string();
        assert!(
            error.contains("others may write") && error.contains("0666"),
            "{error}"
        );
        set_mode(&file, 0o600);
        set_mode(&base, 0o777);
        assert!(check_file(&file).is_err());
        assert!(check_file(&base.join("new")).is_err());
        // As /tmp: only the owner of an entry can move it.
        set_mode(&base, 0o1777);
        assert!(check_file(&file).is_ok());
        assert!(check_file(&base.join("new")).is_ok());
    }

    #[test]
    fn what_another_user_owns_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let own = |name: &str| std::os::unix::fs::lchown(dir.path().join(name), Some(12345), None);
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("d/sub")).unwrap();
        fs::write(path("f"), "x").unwrap();
        fs::write(path("mine"), "x").unwrap();
        symlink("mine", path("link")).unwrap();
        assert!(check_file(&path("link")).is_ok());
        for name in ["d", "f", "link"] {
            own(name).unwrap();
        }
        for name in ["f", "link", "d/new", "d/sub/new"] {
            let error = check_file(&path(name)).unwrap_err().to_string();
            assert!(error.contains("belongs to user 12345"), "{name}: {error}");
        }
    }

    #[test]
    fn a_group_is_private_if_nobody_else_is_in_it() {
        let users = "root:x:0:0:::\nann:x:1000:1000:::\nbob:x:1001:100:::\n";
        let groups = "root:x:0:\nann:x:1000:ann\nusers:x:100:\nwheel:x:10:ann,bob\n";
        let private = |gid, uid| has_one_member(users, groups, gid, uid);
        assert!(private(0, 0) && private(1000, 1000));
        // Others have it as their own, or are members; a group that nobody knows may have any.
        assert!(!private(100, 1000) && !private(10, 1000) && !private(77, 1000));
        assert!(!private(1000, 0));
    }
}
