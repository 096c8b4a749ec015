use std::time::Duration;

use super::*;
use crate::events::{event::tests::knock, history::read::tests::contents};

struct Bed {
    state: tempfile::TempDir,
    now: Instant,
}

impl Bed {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap(), now: Instant::now() }
    }

    fn directory(&self) -> PathBuf {
        segments::directory(self.state.path())
    }

    /// What a daemon has that began then.
    fn writer(&self, keep: u64, boot_ms: u64) -> Writer {
        let begin = Begin { boot_id: "b".into(), boot_ms, time: Timestamp::UNIX_EPOCH };
        Writer::new(self.state.path(), keep, begin, self.now)
    }

    fn contents(&self) -> Vec<String> {
        contents(&self.directory(), None)
    }

    fn bytes_on_disk(&self) -> u64 {
        segments::list(&self.directory()).unwrap().iter().map(|segment| segment.bytes).sum()
    }
}

fn events(numbers: std::ops::Range<u64>) -> Vec<(u64, Arc<Event>)> {
    numbers.map(|number| (number, Arc::new(knock("192.0.2.1")))).collect()
}

const MANY: u64 = 64 << 20;

#[test]
fn what_is_written_is_read_and_the_next_daemon_goes_on_behind_it() {
    let bed = Bed::new();
    let mut writer = bed.writer(MANY, 1);
    writer.append(&events(0..3), bed.now).unwrap();
    assert_eq!(writer.bytes(), bed.bytes_on_disk());
    assert!(writer.oldest().is_some());
    let mut next = bed.writer(MANY, 2);
    next.open().unwrap();
    assert_eq!((next.bytes(), next.oldest()), (writer.bytes(), writer.oldest()));
    next.append(&events(0..2), bed.now).unwrap();
    assert_eq!(bed.contents(), ["0", "1", "2", "0", "1"]);
    assert_eq!(contents(&bed.directory(), writer.extent()), ["0", "1", "2"]);
}

#[test]
fn a_daemon_that_sees_nothing_writes_nothing() {
    let bed = Bed::new();
    for start in 0..3 {
        bed.writer(MANY, start).open().unwrap();
    }
    assert_eq!(bed.bytes_on_disk(), 0);
}

#[test]
fn a_cut_line_is_ended_and_does_not_swallow_the_next_one() {
    let bed = Bed::new();
    bed.writer(MANY, 1).append(&events(0..2), bed.now).unwrap();
    let path = segments::path(&bed.directory(), 1);
    let length = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
    bed.writer(MANY, 2).append(&events(7..8), bed.now).unwrap();
    assert_eq!(bed.contents(), ["0", "d1", "7"]);
}

#[test]
fn the_oldest_goes_first_and_the_files_never_hold_more_than_they_may() {
    let (bed, keep) = (Bed::new(), 256 << 10);
    let mut writer = bed.writer(keep, 1);
    let mut now = bed.now;
    for number in 0..5000 {
        // Slowly enough for all of them.
        now += Duration::from_secs(60);
        writer.append(&events(number..number + 1), now).unwrap();
        assert!(writer.bytes() <= keep);
    }
    assert_eq!(writer.bytes(), bed.bytes_on_disk());
    assert!(writer.bytes() > keep * 3 / 4, "{}", writer.bytes());
    let files = segments::list(&bed.directory()).unwrap();
    assert!((7..=10).contains(&files.len()), "{files:?}");
    let read = bed.contents();
    let first: u64 = read[0].parse().unwrap();
    let expected: Vec<_> = (first..5000).map(|number| number.to_string()).collect();
    assert_eq!(read, expected, "without a hole");
}

#[test]
fn a_flood_writes_little_and_is_counted() {
    let (bed, keep) = (Bed::new(), 1 << 20);
    let mut writer = bed.writer(keep, 1);
    for second in 0..600 {
        let now = bed.now + Duration::from_secs(second);
        writer.append(&events(second * 100..second * 100 + 100), now).unwrap();
    }
    assert!(writer.bytes() <= keep / 10, "{} of {keep}", writer.bytes());
    let (mut written, mut counted) = (0, writer.unwritten);
    for entry in bed.contents() {
        match entry.strip_prefix('u') {
            Some(count) => counted += count.parse::<u64>().unwrap(),
            None => written += 1,
        }
    }
    assert!(written > 100);
    assert_eq!(written + counted, 60_000, "every event is there or is counted");
}

#[test]
fn a_smaller_size_takes_effect_at_once_and_none_removes_all() {
    let bed = Bed::new();
    let mut writer = bed.writer(MANY, 1);
    writer.append(&events(0..2000), bed.now).unwrap();
    assert!(bed.bytes_on_disk() > 400_000);
    writer.set_keep(256 << 10).unwrap();
    assert!(bed.bytes_on_disk() <= 256 << 10);
    writer.append(&events(2000..2001), bed.now + Duration::from_secs(60)).unwrap();
    assert_eq!(bed.contents().last().map(String::as_str), Some("2000"));
    writer.set_keep(0).unwrap();
    writer.append(&events(2001..2002), bed.now + Duration::from_secs(60)).unwrap();
    assert!(bed.contents().is_empty());
    assert_eq!((writer.bytes(), writer.oldest()), (0, None));
}

#[test]
fn files_that_somebody_takes_away_are_made_anew() {
    let bed = Bed::new();
    let mut writer = bed.writer(MANY, 1);
    writer.append(&events(0..2), bed.now).unwrap();
    fs::remove_dir_all(bed.directory()).unwrap();
    writer.append(&events(2..3), bed.now).unwrap();
    assert_eq!(bed.contents(), ["2"]);
}

#[test]
fn what_could_not_be_written_is_counted_once_it_can_be_again() {
    let bed = Bed::new();
    let mut writer = bed.writer(MANY, 1);
    fs::write(bed.directory(), "in the way").unwrap();
    let error = writer.append(&events(0..3), bed.now).unwrap_err();
    assert!(error.to_string().starts_with("cannot keep events in"), "{error}");
    writer.give_up(4);
    fs::remove_file(bed.directory()).unwrap();
    writer.append(&events(3..4), bed.now).unwrap();
    assert_eq!(bed.contents(), ["u7", "3"]);
    writer.append(&events(4..5), bed.now).unwrap();
    assert_eq!(bed.contents(), ["u7", "3", "4"]);
}
