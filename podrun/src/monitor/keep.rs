//! The fd store: what must outlive the monitor, kept in flight on a socket pair of which pause holds both ends.
//!
//! A log of entries by key: a later one replaces an earlier one, an empty one (a tombstone) ends it. Reading never takes
//! an entry away before its copy is back at the tail, so that a monitor that is killed while it reads loses nothing:
//! at worst an entry is there twice.

#![forbid(unsafe_code)]

use crate::error::Result as PodResult;
use crate::fault;
use crate::store::format::{self, READABLE_SINCE};
use crate::sys::socket;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The largest entry: a key and a small document.
const LARGEST: usize = 16 << 10;

/// Room for some 110 containers and as many execs, twice (each message costs the kernel about a kilobyte).
const ROOM: i32 = 4 << 20;

/// After this many entries that no longer hold the log is written anew.
const MOST_GARBAGE: usize = 128;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// Rises with each entry, so that the newest of a key is known.
    n: u64,
    key: String,
    /// The format that a reader of the content has to know.
    #[serde(default = "format::first")]
    readable_since: u32,
    content: Content,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Content {
    Holds(Value),
    /// The tombstone of what was there under this key.
    Ended,
}

/// The key of the mark that ends a round of reading; its `n` is random.
const MARK: &str = "#";

/// One living entry.
#[derive(Debug)]
pub struct Entry {
    pub body: Value,
    pub fds: Vec<OwnedFd>,
    readable_since: u32,
}

impl Entry {
    /// Refuses one of a format that this build does not know.
    pub fn understood(&self) -> PodResult<()> {
        format::refuse(self.readable_since, || "read the fd store".into())
    }
}

#[derive(Debug)]
pub struct Store {
    /// Entries go in here …
    tail: OwnedFd,
    /// … and come out there.
    head: OwnedFd,
    next: u64,
    /// The newest entry of each key that lives.
    newest: BTreeMap<String, u64>,
    in_flight: usize,
}

/// A new pair, for a new pod: (a, b) as pause is to hold them.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = socket::seqpacket_pair()?;
    // Without CAP_NET_ADMIN the usual room holds some 200 entries.
    let _ = socket::set_send_buffer(a.as_fd(), ROOM);
    Ok((a, b))
}

impl Store {
    /// For whoever made the pair, before anything is in it.
    pub fn new(a: OwnedFd, b: OwnedFd) -> Self {
        Self { tail: a, head: b, next: 0, newest: BTreeMap::new(), in_flight: 0 }
    }

    /// Reads all that is there; the entries stay in the store.
    pub fn read(a: OwnedFd, b: OwnedFd) -> io::Result<(Self, BTreeMap<String, Entry>)> {
        let mut store = Self::new(a, b);
        // What comes later decides what an earlier entry is worth, so the first round only learns. An entry that a killed
        // reader had put back but not taken away is there twice, and goes once.
        let mut seen = BTreeSet::new();
        let (mut next, mut newest) = (0, BTreeMap::new());
        store.round(|header| {
            next = next.max(header.n + 1);
            let best = newest.entry(header.key.clone()).or_insert(header.n);
            *best = (*best).max(header.n);
            seen.insert(header.n)
        })?;
        // A reader that was cut short may have left a tombstone ahead of what it ends: it goes only when that is gone.
        let mut put_back = BTreeSet::new();
        store.round(|header| newest.get(&header.key) == Some(&header.n) && put_back.insert(header.n))?;
        (store.next, store.newest) = (next, newest);
        let entries = store.compact()?;
        Ok((store, entries))
    }

    /// The ends, for a new pause to hold.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.tail.as_fd(), self.head.as_fd()]
    }

    /// Puts an entry in, in place of an earlier one of its key. When this returns the descriptors are safe.
    pub fn put(&mut self, key: &str, body: &Value, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let content = Content::Holds(body.clone());
        let header = Header { n: self.next, key: key.to_owned(), readable_since: READABLE_SINCE, content };
        self.append(&header, fds)?;
        self.newest.insert(header.key, header.n);
        self.next += 1;
        self.compact_if_due()
    }

    /// Ends a key.
    pub fn remove(&mut self, key: &str) -> io::Result<()> {
        if self.newest.remove(key).is_none() {
            return Ok(());
        }
        self.append(
            &Header { n: self.next, key: key.to_owned(), readable_since: READABLE_SINCE, content: Content::Ended },
            &[],
        )?;
        self.next += 1;
        self.compact_if_due()
    }

    /// Lets go of what was replaced or ended, now and not when it has become much: closes the last copy of a pipe, say.
    pub fn forget_old(&mut self) -> io::Result<()> {
        self.compact().map(drop)
    }

    fn compact_if_due(&mut self) -> io::Result<()> {
        if self.in_flight > self.newest.len() + MOST_GARBAGE {
            self.compact()?;
        }
        Ok(())
    }

    /// Leaves only what holds, and answers with it.
    fn compact(&mut self) -> io::Result<BTreeMap<String, Entry>> {
        let newest = std::mem::take(&mut self.newest);
        let mut put_back = BTreeSet::new();
        let entries = self.round(|header| {
            matches!(header.content, Content::Holds(_))
                && newest.get(&header.key) == Some(&header.n)
                && put_back.insert(header.n)
        })?;
        self.newest = newest.into_iter().filter(|(key, _)| entries.contains_key(key)).collect();
        Ok(entries)
    }

    /// Takes each entry from the head, having put those that `keep` wants back at the tail; the last of each key comes back.
    fn round(&mut self, mut keep: impl FnMut(&Header) -> bool) -> io::Result<BTreeMap<String, Entry>> {
        let mark = u64::from_ne_bytes(crate::sys::fd::random()?);
        self.append(
            &Header { n: mark, key: MARK.to_owned(), readable_since: READABLE_SINCE, content: Content::Ended },
            &[],
        )?;
        self.in_flight = 0;
        let mut entries = BTreeMap::new();
        let mut buffer = vec![0; LARGEST];
        while let Some((header, fds)) = self.peek(&mut buffer)? {
            let is_mark = header.key == MARK;
            if !is_mark && keep(&header) {
                let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                self.append(&header, &borrowed)?;
                if let Content::Holds(body) = header.content {
                    entries.insert(header.key, Entry { body, fds, readable_since: header.readable_since });
                }
            }
            fault::point("recover.put-back");
            socket::receive(self.head.as_fd(), &mut buffer, libc::MSG_DONTWAIT)?;
            if is_mark && header.n == mark {
                break;
            }
        }
        Ok(entries)
    }

    fn append(&mut self, header: &Header, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        socket::send(self.tail.as_fd(), &serde_json::to_vec(header)?, fds, libc::MSG_DONTWAIT)?;
        self.in_flight += 1;
        Ok(())
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<Option<(Header, Vec<OwnedFd>)>> {
        match socket::receive(self.head.as_fd(), buffer, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(err) => Err(err),
            Ok((count, fds)) => Ok(Some((serde_json::from_slice(&buffer[..count])?, fds))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::fd::AsRawFd;

    fn ends(store: &Store) -> (OwnedFd, OwnedFd) {
        let [a, b] = store.ends().map(|end| end.try_clone_to_owned().unwrap());
        (a, b)
    }

    fn filled() -> (Store, OwnedFd) {
        let (a, b) = pair().unwrap();
        let mut store = Store::new(a, b);
        let (reader, writer) = io::pipe().unwrap();
        store.put("c/a", &json!({"run": 1}), &[writer.as_fd()]).unwrap();
        store.put("c/b", &json!(2), &[writer.as_fd(), reader.as_fd()]).unwrap();
        store.put("c/a", &json!({"run": 2}), &[writer.as_fd(), writer.as_fd()]).unwrap();
        store.remove("c/b").unwrap();
        (store, reader.into())
    }

    #[test]
    fn a_successor_finds_what_holds_and_nothing_else() {
        let (store, _reader) = filled();
        for _ in 0..3 {
            let (a, b) = ends(&store);
            let (again, entries) = Store::read(a, b).unwrap();
            assert_eq!(entries.keys().collect::<Vec<_>>(), ["c/a"]);
            assert_eq!((entries["c/a"].body.clone(), entries["c/a"].fds.len()), (json!({"run": 2}), 2));
            assert!(again.next >= 3, "a number would be given twice");
        }
    }

    /// A reader that is killed anywhere in a round: forked readers that stop after n system calls' worth of entries.
    #[test]
    fn a_reader_that_is_cut_short_anywhere_loses_nothing() {
        for stop_after in 0..12 {
            let (store, _reader) = filled();
            let (a, b) = ends(&store);
            let mut cut = Store::new(a, b);
            let mut left = stop_after;
            // The same steps as a round, abandoned in the middle, once between putting back and taking away.
            let mut buffer = vec![0; LARGEST];
            while left > 0 {
                let (header, fds) = cut.peek(&mut buffer).unwrap().unwrap();
                let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                cut.append(&header, &borrowed).unwrap();
                left -= 1;
                if left == 0 {
                    break;
                }
                socket::receive(cut.head.as_fd(), &mut buffer, libc::MSG_DONTWAIT).unwrap();
                left -= 1;
            }
            let (a, b) = ends(&store);
            let (_, entries) = Store::read(a, b).unwrap();
            assert_eq!(entries.keys().collect::<Vec<_>>(), ["c/a"], "stopped after {stop_after}");
            assert_eq!(entries["c/a"].body, json!({"run": 2}), "stopped after {stop_after}");
        }
    }

    #[test]
    fn a_thousand_execs_leave_no_garbage() {
        let (mut store, reader) = filled();
        for n in 0..1000 {
            store.put(&format!("x/{n}"), &json!(null), &[reader.as_fd()]).unwrap();
            store.remove(&format!("x/{n}")).unwrap();
        }
        assert!(store.in_flight <= store.newest.len() + MOST_GARBAGE);
        let (a, b) = ends(&store);
        assert_eq!(Store::read(a, b).unwrap().1.len(), 1);
        assert!(reader.as_raw_fd() > 2);
    }

    #[test]
    fn an_entry_without_words_is_no_tombstone() {
        let (mut store, reader) = filled();
        store.put("door", &Value::Null, &[reader.as_fd()]).unwrap();
        let (a, b) = ends(&store);
        assert_eq!(Store::read(a, b).unwrap().1["door"].fds.len(), 1);
    }

    #[test]
    fn an_entry_of_the_first_builds_and_one_of_a_later_are_told_apart() {
        let (a, b) = pair().unwrap();
        let first = br#"{"n":0,"key":"door","content":{"holds":null}}"#;
        let later = br#"{"n":1,"key":"pump","readable_since":99,"content":{"holds":null}}"#;
        for entry in [first.as_slice(), later] {
            socket::send(a.as_fd(), entry, &[], 0).unwrap();
        }
        let (store, entries) = Store::read(a, b).unwrap();
        assert!(entries["door"].understood().is_ok() && entries["pump"].understood().is_err());
        let (a, b) = ends(&store);
        assert!(Store::read(a, b).unwrap().1["pump"].understood().is_err(), "reading has changed it");
    }

    #[test]
    fn a_hundred_and_ten_containers_fit_twice() {
        let (a, b) = pair().unwrap();
        let mut store = Store::new(a, b);
        let (reader, _writer) = io::pipe().unwrap();
        let fds = [reader.as_fd(); 12];
        for n in 0..220 {
            store.put(&format!("c/{n}"), &json!({"n": n}), &fds).unwrap();
        }
        let (a, b) = ends(&store);
        assert_eq!(Store::read(a, b).unwrap().1.len(), 220);
    }
}
