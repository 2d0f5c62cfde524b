//! Disks that do not answer, or of which nothing can be read: an operation that never returns says
//! nothing by itself, and everybody waits. A thread of its own looks what each disk has under way,
//! and gives one up that is silent for too long.
//!
//! What must always hold:
//! - time counts only while this thread is awake at its times: a machine that stood still gives up
//!   nothing;
//! - a member is given up only while enough others answer, which they are asked for right then.
//!   When most are silent, something else is wrong (a controller, a network), and all of them are
//!   waited for.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use shardstore::{Completion, Engine, UnderWay};

use crate::Volume;
use crate::keep::has_failed;
use crate::limits::{SILENCE_FACTOR, SILENCE_TICKS};
use crate::table::Table;
use crate::volume::{Inner, lock};

/// What was seen of the disks, by their UUIDs.
struct Watch {
    silence: Duration,
    looked_at: Instant,
    seen: BTreeMap<[u8; 16], Seen>,
    /// Members that are asked whether they answer, before another one is given up.
    asked: Vec<([u8; 16], Completion<()>)>,
}

/// What a disk had under way when it was looked at last, and for how long.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    under_way: UnderWay,
    /// How often nothing had ended.
    quiet: u32,
    /// How often the oldest operation was the same, whatever ended meanwhile.
    stuck: u32,
}

/// Engines that are watched although no member has them: of disks that come, and of those that are
/// being closed. Nobody has to be left in their stead.
#[derive(Default)]
pub(crate) struct Guests {
    next: u64,
    engines: BTreeMap<u64, Engine>,
}

/// An engine is watched while this lives.
pub(crate) struct Guest<'a> {
    volume: &'a Volume,
    number: u64,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        lock(&self.volume.inner.guests).engines.remove(&self.number);
    }
}

impl Volume {
    /// Begins to watch the disks, once there are several.
    pub(crate) fn ensure_watched(&self) {
        if !self.table().is_unmirrored() {
            self.begin_to_watch();
        }
    }

    /// Watches an engine, whoever else answers.
    pub(crate) fn watch_guest(&self, engine: &Engine) -> Guest<'_> {
        self.begin_to_watch();
        let mut guests = lock(&self.inner.guests);
        guests.next += 1;
        let number = guests.next;
        guests.engines.insert(number, engine.clone());
        Guest {
            volume: self,
            number,
        }
    }

    /// Closes an engine; one whose disk does not answer only for so long.
    pub(crate) fn close_engine(&self, engine: &Engine) -> shardstore::Result<()> {
        let _guest = self.watch_guest(engine);
        engine.close()
    }

    fn begin_to_watch(&self) {
        self.inner.watched.get_or_init(|| {
            let (inner, silence) = (Arc::downgrade(&self.inner), self.inner.silence_max);
            let thread = std::thread::Builder::new().name("watch".to_owned());
            // Without it the set works as before; it waits for a disk that hangs, that is all.
            if let Err(error) = thread.spawn(move || watch(&inner, silence)) {
                let event = format!("disks that do not answer are not noticed: {error}");
                self.inner.keeping.say(event);
            }
        });
    }
}

fn watch(inner: &Weak<Inner>, silence: Duration) {
    let mut watch = Watch::new(silence);
    loop {
        std::thread::sleep(watch.interval());
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let guests: Vec<Engine> = lock(&inner.guests).engines.values().cloned().collect();
        let table = Volume { inner }.table();
        watch.look(&table, &guests, Instant::now());
    }
}

/// Why a disk is of no use.
enum Useless {
    Silent(String),
    Unreadable(String),
}

impl Watch {
    fn new(silence: Duration) -> Watch {
        Watch {
            silence,
            looked_at: Instant::now(),
            seen: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    fn interval(&self) -> Duration {
        self.silence / SILENCE_TICKS
    }

    /// Looks at all disks, and gives up what is of no use.
    fn look(&mut self, table: &Table, guests: &[Engine], now: Instant) {
        let is_late = now - self.looked_at > self.interval() * 2;
        self.looked_at = now;
        let works = |slot: &usize| !has_failed(table, *slot);
        let here = table.here().filter(works);
        let members: Vec<&Engine> = here.filter_map(|slot| table.engine(slot).ok()).collect();
        let before = std::mem::take(&mut self.seen);
        for engine in members.iter().copied().chain(guests) {
            let id = engine.store().identity().disk;
            let mut seen = before.get(&id).copied().unwrap_or_default();
            seen.note(engine.store().under_way(), is_late);
            self.seen.insert(id, seen);
        }
        for guest in guests
            .iter()
            .filter(|guest| guest.store().failure().is_none())
        {
            if let Some(Useless::Silent(why)) = self.useless(guest) {
                guest.abandon(&why);
            }
        }
        let useless = members
            .iter()
            .filter_map(|engine| Some((*engine, self.useless(engine)?)));
        let useless: Vec<(&Engine, Useless)> = useless.collect();
        if useless.is_empty() {
            self.asked.clear();
            return;
        }
        let is_live = |id: &[u8; 16]| table.membership.live().any(|member| member.disk == *id);
        if self.asked.is_empty() {
            let is_useless = |engine: &Engine| {
                let id = engine.store().identity().disk;
                useless
                    .iter()
                    .any(|(one, _)| one.store().identity().disk == id)
            };
            let others = members.iter().filter(|engine| !is_useless(engine));
            self.asked = others
                .map(|engine| (engine.store().identity().disk, engine.ping()))
                .collect();
            return;
        }
        let asked = std::mem::take(&mut self.asked);
        let answer = |(id, answer): ([u8; 16], Completion<()>)| {
            let is_there = answer.is_complete() && answer.wait().is_ok();
            (is_there && is_live(&id)).then_some(id)
        };
        let well: Vec<[u8; 16]> = asked.into_iter().filter_map(answer).collect();
        if well.len() < table.membership.deciders() {
            return;
        }
        for (engine, useless) in useless {
            match useless {
                // It has come to itself meanwhile.
                _ if well.contains(&engine.store().identity().disk) => {}
                Useless::Silent(why) => engine.abandon(&why),
                Useless::Unreadable(why) => engine.store().give_up(&why),
            }
        }
    }

    fn useless(&self, engine: &Engine) -> Option<Useless> {
        let store = engine.store();
        let seen = self.seen.get(&store.identity().disk)?;
        let seconds = self.silence.as_secs_f64();
        if seen.quiet >= SILENCE_TICKS {
            let why = format!("it has not answered for {seconds} s");
            return Some(Useless::Silent(why));
        }
        if seen.stuck >= SILENCE_TICKS * SILENCE_FACTOR {
            let seconds = seconds * f64::from(SILENCE_FACTOR);
            let why = format!("an operation has not ended for {seconds} s");
            return Some(Useless::Silent(why));
        }
        store.unreadable().map(Useless::Unreadable)
    }
}

impl Seen {
    fn note(&mut self, now: UnderWay, is_late: bool) {
        let before = std::mem::replace(&mut self.under_way, now);
        let is_same = now.oldest.is_some() && now.oldest == before.oldest;
        if !is_same {
            (self.quiet, self.stuck) = (0, 0);
        } else if !is_late {
            self.stuck += 1;
            self.quiet = match now.ended == before.ended {
                true => self.quiet + 1,
                false => 0,
            };
        }
    }
}
