//! Where the control socket stands in the file system.
//!
//! It is never open to more than its final mode, not even for a moment: the mode is set before the
//! name exists, whatever the umask is. What was not created here is never changed, and nothing but
//! a dead socket is ever removed.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    sys::{
        socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr},
        stat::{self, Mode},
    },
    unistd::{self, Gid},
};
use thiserror::Error;
use tokio::net::UnixListener;

/// Mode of the directory that is made for the socket.
pub const DIRECTORY_MODE: u32 = 0o750;
/// Mode of the socket.
pub const SOCKET_MODE: u32 = 0o660;
/// Bytes of the longest path that fits a Unix socket address.
pub const MAX_PATH_BYTES: usize = 107;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// A running daemon has it.
    #[error(
        "another daemon answers on {}: stop it, or give this one a socket of its own with \
         `--socket PATH`", path.display()
    )]
    Answers {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has the name.
    #[error("{} is {what}, not a socket: remove it, or choose another `--socket PATH`",
        path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The kernel's limit.
    #[error(
        "the socket path {} has {} bytes, and at most {MAX_PATH_BYTES} fit: choose a shorter \
         `--socket PATH`", path.display(), path.as_os_str().len()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Anybody could put another socket in its place.
    #[error(
        "anybody can rename files in {}: take the right to write from others (`chmod o-w`), or \
         choose another `--socket PATH`", path.display()
    )]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A step failed.
    #[error("cannot {step} {}: {source}", path.display())]
    Step {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn step<E: Into<io::Error>>(step: &'static str, path: &Path) -> impl FnOnce(E) -> SocketError {
    move |source| SocketError::Step { step, path: path.to_owned(), source: source.into() }
}

/// The socket's name. Dropping it removes the name, and the directory if it was made for it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Holds the inode, so that its number is not given to a successor's socket.
    named: File,
    directory: Option<PathBuf>,
}

impl SocketFile {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = match (fs::symlink_metadata(&self.path), self.named.metadata()) {
            (Ok(found), Ok(ours)) => (found.dev(), found.ino()) == (ours.dev(), ours.ino()),
            _ => false,
        };
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket");
        }
        if let Some(directory) = &self.directory {
            // Fails if somebody keeps something in it, who then wants it to stay.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Makes the socket, for root, the caller and the members of `group`, and its directory if that
/// is absent. Must be called within a tokio runtime.
///
/// Two daemons of one guard are kept apart by the lock on the pin directory; here a socket that
/// answers is an error, and one that nobody listens on is replaced.
///
/// # Errors
///
/// If the path is taken, too long, or something on the way fails.
pub fn bind(path: &Path, group: Option<u32>) -> Result<(UnixListener, SocketFile), SocketError> {
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(SocketError::TooLong { path: path.to_owned() });
    }
    let group = group.map(Gid::from_raw);
    let directory = prepare_directory(path, group)?;
    make_room(path)?;
    let descriptor = bind_closed(path)?;
    // From here on, what was made is removed again if a later step fails.
    let file = SocketFile { path: path.to_owned(), named: reopen(path)?, directory };
    open_up(&file.named, path, group)?;
    let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
    socket::listen(&descriptor, backlog).map_err(step("listen on", path))?;
    let listener =
        UnixListener::from_std(StdListener::from(descriptor)).map_err(step("listen on", path))?;
    Ok((listener, file))
}

/// Makes the directory if it is absent, and returns it if so.
fn prepare_directory(path: &Path, group: Option<Gid>) -> Result<Option<PathBuf>, SocketError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match fs::metadata(directory) {
        Ok(found) if !found.is_dir() => {
            return Err(SocketError::Occupied { path: directory.to_owned(), what: "a file" });
        }
        // Others may write where the sticky bit keeps them from renaming (as in /tmp).
        Ok(found) if found.mode() & 0o1002 == 0o002 => {
            return Err(SocketError::OpenDirectory { path: directory.to_owned() });
        }
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(step("look at", directory)(error)),
    }
    unistd::mkdir(directory, Mode::S_IRWXU).map_err(step("create the directory", directory))?;
    let made = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(directory)
        .map_err(step("open the directory", directory))?;
    give_to(&made, directory, group);
    made.set_permissions(Permissions::from_mode(DIRECTORY_MODE))
        .map_err(step("set the mode of", directory))?;
    Ok(Some(directory.to_owned()))
}

/// Removes a socket that nobody listens on.
fn make_room(path: &Path) -> Result<(), SocketError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(step("look at", path)(error)),
    };
    if !found.is_socket() {
        let what = match found {
            link if link.is_symlink() => "a symbolic link",
            directory if directory.is_dir() => "a directory",
            _ => "a file",
        };
        return Err(SocketError::Occupied { path: path.to_owned(), what });
    }
    match knock(path) {
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).map_err(step("remove the dead socket", path))
        }
        Err(Errno::ENOENT) => Ok(()),
        // EAGAIN: somebody listens, and has more clients waiting than it accepts. EPROTOTYPE: a
        // socket of another kind, which is not ours to remove.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => {
            Err(SocketError::Answers { path: path.to_owned() })
        }
        Err(error) => Err(step("see whether a daemon answers on", path)(error)),
    }
}

fn knock(path: &Path) -> Result<(), Errno> {
    let descriptor = unix_socket()?;
    socket::connect(descriptor.as_raw_fd(), &UnixAddr::new(path)?)
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Binds the name with a mode that lets nobody but us in: Linux gives the name the mode of the
/// socket itself, less the umask (`unix_bind_bsd`).
fn bind_closed(path: &Path) -> Result<OwnedFd, SocketError> {
    let failed = |error: Errno| match error {
        Errno::EADDRINUSE => SocketError::Answers { path: path.to_owned() },
        error => step("create the socket", path)(error),
    };
    let descriptor = unix_socket().map_err(failed)?;
    stat::fchmod(&descriptor, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
    let address = UnixAddr::new(path).map_err(failed)?;
    socket::bind(descriptor.as_raw_fd(), &address).map_err(failed)?;
    Ok(descriptor)
}

/// Gets hold of the file that the name stands for, so that what follows is about this file, also
/// if the directory is somebody else's and the name is not the socket's any more.
fn reopen(path: &Path) -> Result<File, SocketError> {
    let named = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_NOFOLLOW).bits())
        .open(path)
        .map_err(step("find the new socket", path))?;
    let found = named.metadata().map_err(step("look at", path))?;
    if !found.file_type().is_socket() || found.uid() != unistd::geteuid().as_raw() {
        return Err(SocketError::Occupied { path: path.to_owned(), what: "somebody else's" });
    }
    Ok(named)
}

/// Lets the group in.
fn open_up(named: &File, path: &Path, group: Option<Gid>) -> Result<(), SocketError> {
    give_to(named, path, group);
    // A descriptor of this kind cannot be given to fchmod; its name in /proc can be to chmod.
    let descriptor = format!("/proc/self/fd/{}", named.as_raw_fd());
    fs::set_permissions(&descriptor, Permissions::from_mode(SOCKET_MODE))
        .map_err(step("set the mode of", path))
}

/// Gives a file to the group. A daemon that may not do that goes on without: the group is then
/// not let in, which is said.
fn give_to(file: &File, path: &Path, group: Option<Gid>) {
    let given = unistd::fchownat(file, "", None, group, AtFlags::AT_EMPTY_PATH);
    if let Err(error) = given {
        tracing::warn!(
            %error,
            path = %path.display(),
            "cannot give this to the group `{}`: only root and the daemon's user may use it",
            super::access::GROUP
        );
    }
}

#[cfg(test)]
mod tests;
