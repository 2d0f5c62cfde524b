use std::os::unix::fs::PermissionsExt;

use super::*;

/// A directory of this test's own, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("cullet-credentials-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("disk")).unwrap();
        Scratch(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// As of a start that found this.
    fn known(&self, given: Option<Credentials>, is_new: bool) -> Known {
        let given = Given {
            root: given,
            master: None,
            place: Place::Directory(self.join("config/cullet")),
            earlier: self.join("disk/cullet.credentials"),
        };
        given.look_up(&SET, is_new).unwrap()
    }

    fn settled(&self) -> Settled {
        self.known(None, false).settle().unwrap()
    }

    fn file(&self) -> PathBuf {
        self.join("config/cullet/07070707-0707-0707-0707-070707070707.credentials")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SET: [u8; 16] = [7; 16];

fn admin() -> Credentials {
    Credentials {
        access_key_id: "admin".to_owned(),
        secret_access_key: "secret-secret".to_owned(),
    }
}

fn variables(key: Option<&str>, secret: Option<&str>) -> Result<Option<String>, String> {
    from_variables(key.map(Into::into), secret.map(Into::into))
        .map(|found| found.map(|credentials| credentials.access_key_id))
        .map_err(|error| error.to_string())
}

#[test]
fn both_or_neither() {
    assert_eq!(variables(None, None), Ok(None));
    assert_eq!(
        variables(Some("key"), Some("secret-secret")),
        Ok(Some("key".into()))
    );
    assert!(
        variables(Some("key"), None)
            .unwrap_err()
            .contains("SECRET_ACCESS_KEY is not")
    );
    assert!(
        variables(None, Some("secret-secret"))
            .unwrap_err()
            .contains("KEY_ID is not")
    );
    assert!(variables(Some("a/b"), Some("secret-secret")).is_err());
    assert!(variables(Some("key"), Some("short")).is_err());
    assert!(variables(Some("a key"), Some("secret-secret")).is_err());
}

#[test]
fn made_once_and_private() {
    let scratch = Scratch::new("made");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // Once what a crash had left lent its mode to the new key.
    std::fs::create_dir_all(scratch.join("config")).unwrap();
    let first = scratch.known(None, true).settle().unwrap();
    assert_eq!(mode(&scratch.file()), 0o600);
    assert_eq!(mode(scratch.file().parent().unwrap()), 0o700);
    assert_eq!(first.root.access_key_id.len(), 20);
    assert!(first.said.contains(&first.root.secret_access_key));
    assert!(!first.said.contains("in use before"), "{}", first.said);
    let master = first.master.unwrap();
    assert!(!first.said.contains(master.digits().as_str()));

    let second = scratch.settled();
    assert_eq!(second.root.secret_access_key, first.root.secret_access_key);
    assert!(second.master.unwrap().is(&master));
    assert!(second.said.contains(&first.root.access_key_id));
    assert!(!second.said.contains(&first.root.secret_access_key));

    // A key from the environment shuts the kept one out, but for the same one.
    let known = scratch.known(Some(first.root.clone()), false);
    assert!(!known.settle().unwrap().said.contains("not accepted"));
    let known = scratch.known(Some(admin()), false).settle().unwrap();
    let said = known.said;
    assert!(said.starts_with("access key admin, from the environment\n"));
    assert!(said.contains("is not accepted while"), "{said}");
    assert!(!said.contains("secret-secret"));
    assert!(known.master.unwrap().is(&master));

    // Gone from a disk that was in use: not silently.
    std::fs::remove_file(scratch.file()).unwrap();
    let third = scratch.settled();
    assert!(third.said.contains("in use before"), "{}", third.said);
    assert_ne!(third.root.access_key_id, first.root.access_key_id);
}

#[test]
fn a_file_that_makes_no_sense_is_refused_and_kept() {
    let scratch = Scratch::new("nonsense");
    std::fs::create_dir_all(scratch.file().parent().unwrap()).unwrap();
    let key = "CULLET_ACCESS_KEY_ID=admin\n";
    let master = "CULLET_MASTER_KEY=00\n";
    for text in ["", "nonsense", key, master, &format!("{key}{master}")] {
        std::fs::write(scratch.file(), text).unwrap();
        let error = Kept::read(&scratch.file()).unwrap_err();
        assert!(error.to_string().contains("restore it"), "{text:?} {error}");
        assert_eq!(std::fs::read_to_string(scratch.file()).unwrap(), text);
    }
    // Two that differ, as of an append that was to replace: the first one counted once.
    let other = root_lines(&admin()).replace("=admin", "=other");
    std::fs::write(scratch.file(), format!("{other}{key}")).unwrap();
    let error = Kept::read(&scratch.file()).unwrap_err().to_string();
    assert!(
        error.contains("says CULLET_ACCESS_KEY_ID=… more than once"),
        "{error}"
    );
    std::fs::write(scratch.file(), format!("{other}{other}")).unwrap();
    assert!(Kept::read(&scratch.file()).unwrap().root.is_some());
}

/// What an earlier release left beside the data goes on working, and is left alone.
#[test]
fn the_file_in_the_data_directory_works_until_it_is_moved() {
    let scratch = Scratch::new("earlier");
    let earlier = scratch.join("disk/cullet.credentials");
    let lines = root_lines(&admin());
    std::fs::write(&earlier, &lines).unwrap();
    let settled = scratch.settled();
    assert_eq!(settled.root.access_key_id, "admin");
    assert!(settled.master.is_none() && !scratch.file().exists());
    // The master key goes where it belongs, and the two meet there.
    let (master, made) = make_master(&settled.file.unwrap()).unwrap();
    assert!(made);
    let settled = scratch.settled();
    assert_eq!(settled.root.access_key_id, "admin");
    assert!(settled.master.unwrap().is(&master));
    assert_eq!(std::fs::read_to_string(&earlier).unwrap(), lines);
    let both = std::fs::read_to_string(scratch.file()).unwrap() + &lines;
    std::fs::write(scratch.file(), both).unwrap();
    let settled = scratch.settled();
    assert!(settled.said.contains("is not used"), "{}", settled.said);
    std::fs::remove_file(&earlier).unwrap();
    let settled = scratch.settled();
    assert_eq!(settled.root.access_key_id, "admin");
    assert!(settled.master.unwrap().is(&master));
}

/// The file is written beside itself first: once under a name that could be somebody's.
#[test]
fn neighbours_are_left_alone() {
    let scratch = Scratch::new("neighbours");
    std::fs::create_dir_all(scratch.file().parent().unwrap()).unwrap();
    let neighbour = scratch.file().with_extension("new");
    std::fs::write(&neighbour, "mine").unwrap();
    make_master(&scratch.file()).unwrap();
    assert_eq!(std::fs::read_to_string(&neighbour).unwrap(), "mine");
}

/// Two servers that shared a file once each made a master key when they needed one; the second
/// replaced the first, and what that had sealed was lost.
#[test]
fn servers_that_share_a_file_share_its_master_key() {
    let scratch = Scratch::new("shared");
    let makers: Vec<_> = (0..8)
        .map(|_| {
            let file = scratch.file();
            std::thread::spawn(move || make_master(&file).unwrap())
        })
        .collect();
    let makers = makers.into_iter().map(|maker| maker.join().unwrap());
    let (masters, made): (Vec<MasterKey>, Vec<bool>) = makers.unzip();
    assert_eq!(made.iter().filter(|made| **made).count(), 1);
    let kept = Kept::read(&scratch.file()).unwrap().master.unwrap();
    assert!(masters.iter().all(|master| master.is(&kept)));

    // A root key likewise, which was shown already, is not replaced by another.
    let known = scratch.known(None, true);
    scratch.known(None, true).settle().unwrap();
    let error = known.settle().err().expect("the file has one by now");
    assert!(
        error.to_string().contains("start this one again"),
        "{error}"
    );
}

#[test]
fn a_place_on_the_disk_is_none() {
    let scratch = Scratch::new("inside");
    let disk = scratch.join("disk");
    std::os::unix::fs::symlink(&disk, scratch.join("link")).unwrap();
    let outside = |place: Place, disk: &Path| place.outside(disk);
    for inside in [
        "disk/file",
        "link/deep/file",
        "disk/../link/file",
        "new/../disk/file",
    ] {
        let place = Place::File(scratch.join(inside));
        let error = outside(place, &disk).unwrap_err();
        assert!(error.downcast_ref::<UsageError>().is_some(), "{inside}");
        assert!(error.to_string().contains("data directory"), "{error}");
    }
    let place = Place::File(scratch.join("disk-2/file"));
    assert_eq!(outside(place.clone(), &disk).unwrap(), place);
    let place = Place::File(scratch.join("disk/../file"));
    assert_eq!(outside(place.clone(), &disk).unwrap(), place);
    // Also when there is no disk yet.
    let place = Place::File(scratch.join("later/file"));
    assert!(outside(place, &scratch.join("later")).is_err());
    let place = Place::Directory(scratch.join("disk/.config/cullet"));
    assert!(matches!(outside(place, &disk).unwrap(), Place::Nowhere(_)));
}

#[test]
fn the_configuration_is_found_as_its_specification_says() {
    let find = |config: Option<&str>, home: Option<&str>| {
        Place::in_configuration(config.map(Into::into), home.map(Into::into))
    };
    let at = |path: &str| Place::Directory(path.into());
    assert_eq!(find(Some("/c"), Some("/h")), at("/c/cullet"));
    assert_eq!(find(None, Some("/h")), at("/h/.config/cullet"));
    assert_eq!(find(Some("relative"), Some("/h")), at("/h/.config/cullet"));
    assert!(matches!(find(Some(""), Some("")), Place::Nowhere(_)));
    assert!(matches!(find(None, None), Place::Nowhere(_)));
}
