use std::os::unix::net::{UnixDatagram, UnixStream as StdStream};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("metadata").mode() & 0o7777
}

fn refused(path: &Path) -> SocketError {
    bind(path, None).map(|_| ()).expect_err("not bound")
}

#[tokio::test]
async fn the_directory_and_the_socket_have_their_modes_and_go_away() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().join("guard");
    let path = directory.join("control.sock");
    let (listener, file) = bind(&path, None).expect("bound");
    assert_eq!((mode(&directory), mode(&path)), (DIRECTORY_MODE, SOCKET_MODE));
    assert_eq!(file.path(), path);
    StdStream::connect(&path).expect("connected");
    drop((listener, file));
    assert!(!directory.exists());
}

#[tokio::test]
async fn the_group_gets_the_socket_and_its_directory() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("guard/control.sock");
    let group = unistd::getegid().as_raw();
    let wanted = if unistd::geteuid().is_root() { 54_321 } else { group };
    let (_listener, _file) = bind(&path, Some(wanted)).expect("bound");
    for made in [path.as_path(), path.parent().expect("a parent")] {
        assert_eq!(fs::symlink_metadata(made).expect("metadata").gid(), wanted);
    }
}

#[test]
fn the_name_is_born_closed() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control.sock");
    let _descriptor = bind_closed(&path).expect("bound");
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_directory_that_was_there_stays_as_it_was() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), Permissions::from_mode(0o711)).expect("a mode");
    let path = place.path().join("control.sock");
    drop(bind(&path, None).expect("bound"));
    assert!(!path.exists());
    assert_eq!(mode(place.path()), 0o711);
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control.sock");
    drop(StdListener::bind(&path).expect("a socket"));
    let (listener, file) = bind(&path, None).expect("bound");
    let error = refused(&path);
    assert!(matches!(error, SocketError::Answers { .. }));
    assert!(error.to_string().starts_with("another daemon answers on /"), "{error}");
    drop((listener, file));

    let datagrams = UnixDatagram::bind(&path).expect("a socket");
    assert!(matches!(refused(&path), SocketError::Answers { .. }));
    assert!(path.exists());
    drop(datagrams);
}

#[tokio::test]
async fn a_listener_whose_queue_is_full_is_alive() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control.sock");
    let descriptor = bind_closed(&path).expect("bound");
    socket::listen(&descriptor, Backlog::new(0).expect("a backlog")).expect("listening");
    let mut waiting = Vec::new();
    while knock(&path).is_ok() {
        let client = unix_socket().expect("a socket");
        let address = UnixAddr::new(&path).expect("an address");
        if socket::connect(client.as_raw_fd(), &address).is_ok() {
            waiting.push(client);
        }
    }
    assert!(matches!(refused(&path), SocketError::Answers { .. }));
    assert!(path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_neither_removed_nor_followed() {
    let place = tempfile::tempdir().expect("a directory");
    let (file, link) = (place.path().join("file"), place.path().join("link"));
    fs::write(&file, "precious").expect("a file");
    std::os::unix::fs::symlink(place.path().join("target"), &link).expect("a link");
    let refused = |path: &Path, what: &str| {
        let error = refused(path).to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(&file, "is a file, not a socket");
    refused(&link, "is a symbolic link, not a socket");
    refused(place.path(), "is a directory, not a socket");
    refused(&file.join("control.sock"), "is a file, not a socket");
    assert_eq!(fs::read_to_string(&file).expect("the file"), "precious");
    assert!(link.is_symlink() && !place.path().join("target").exists());

    // A link to a dead socket is no dead socket.
    drop(StdListener::bind(place.path().join("target")).expect("a socket"));
    refused(&link, "is a symbolic link, not a socket");
    assert!(place.path().join("target").exists());
}

#[tokio::test]
async fn paths_that_cannot_work_are_explained() {
    let place = tempfile::tempdir().expect("a directory");
    let long = place.path().join("x".repeat(MAX_PATH_BYTES));
    assert!(refused(&long).to_string().contains("at most 107 fit"));
    let nowhere = place.path().join("absent/absent/control.sock");
    assert!(refused(&nowhere).to_string().starts_with("cannot create the directory /"));

    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).expect("a mode");
    let open = place.path().join("control.sock");
    assert!(matches!(refused(&open), SocketError::OpenDirectory { .. }));
    fs::set_permissions(place.path(), Permissions::from_mode(0o1777)).expect("a mode");
    bind(&open, None).expect("bound where nobody else can rename it");
}

#[tokio::test]
async fn a_successor_keeps_its_socket() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control.sock");
    let (listener, file) = bind(&path, None).expect("bound");
    drop(listener);
    let (_listener, _file) = bind(&path, None).expect("bound over the dead one");
    drop(file);
    StdStream::connect(&path).expect("still there");
}
