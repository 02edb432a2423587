//! A simulated connection of two sockets: bytes are delivered in random portions, buffers are small, and events are
//! edge-triggered as epoll's.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use psystrike::net::{stream::Ready, transport::Transport};

use crate::bytes::Random;

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    /// Written, and not delivered yet.
    in_flight: VecDeque<u8>,
    /// Delivered, and not read yet.
    arrived: VecDeque<u8>,
    /// How many bytes may be written and not read.
    room: usize,
    /// The writer ended its side, after the bytes in flight.
    ended: bool,
    /// That end was delivered.
    end_arrived: bool,
    /// A write found no room: the next read that makes some is an event.
    lacked_room: bool,
}

/// Both directions, and the events that each side has yet to hear of.
#[derive(Debug, Default)]
struct State {
    directions: [Direction; 2],
    events: [Ready; 2],
    is_reset: bool,
}

/// A connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire(Rc<RefCell<State>>);

/// One side of it.
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    wire: Wire,
    side: usize,
}

impl Wire {
    pub(crate) fn new(random: &mut Random) -> Self {
        let wire = Self::default();
        for direction in &mut wire.0.borrow_mut().directions {
            let most = random.pick(&[40, 2_000, 20_000, 200_000]);
            direction.room = 1 + random.below(most);
        }
        wire.0.borrow_mut().events = [Ready::WRITE; 2];
        wire
    }

    pub(crate) fn sockets(&self) -> [Socket; 2] {
        [0, 1].map(|side| Socket { wire: self.clone(), side })
    }

    /// Delivers some of the bytes that a side wrote. Returns whether there was anything to deliver.
    pub(crate) fn deliver(&self, from: usize, random: &mut Random) -> bool {
        let state = &mut *self.0.borrow_mut();
        let direction = &mut state.directions[from];
        let to = 1 - from;
        if direction.in_flight.is_empty() {
            let ends = direction.ended && !direction.end_arrived;
            if ends {
                direction.end_arrived = true;
                state.events[to] = state.events[to].with(Ready::READ).with(Ready::END);
            }
            return ends;
        }
        let most = random.pick(&[1, 5, 300, 20_000, usize::MAX]).min(direction.in_flight.len());
        let portion = direction.in_flight.drain(..=random.below(most));
        direction.arrived.extend(portion);
        state.events[to] = state.events[to].with(Ready::READ);
        true
    }

    /// Changes a byte that a side wrote and that is not delivered. Returns whether there was one.
    pub(crate) fn corrupt(&self, from: usize, random: &mut Random) -> bool {
        let in_flight = &mut self.0.borrow_mut().directions[from].in_flight;
        if in_flight.is_empty() {
            return false;
        }
        let at = random.below(in_flight.len());
        in_flight[at] ^= 1 << random.below(8);
        true
    }

    /// Resets the connection.
    pub(crate) fn reset(&self) {
        let state = &mut *self.0.borrow_mut();
        state.is_reset = true;
        state.events = [Ready::READ.with(Ready::WRITE).with(Ready::END).with(Ready::FAILED); 2];
    }

    /// Takes the events of a side.
    pub(crate) fn take_events(&self, side: usize) -> Ready {
        std::mem::take(&mut self.0.borrow_mut().events[side])
    }
}

impl Socket {
    fn copy(&self, into: &mut [u8]) -> io::Result<usize> {
        let state = self.wire.0.borrow();
        if state.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let direction = &state.directions[1 - self.side];
        if direction.arrived.is_empty() && !direction.end_arrived {
            return Err(ErrorKind::WouldBlock.into());
        }
        into.iter_mut().zip(&direction.arrived).for_each(|(into, byte)| *into = *byte);
        Ok(direction.arrived.len().min(into.len()))
    }

    /// Ends this side, without any announcement.
    pub(crate) fn end(&self) {
        self.wire.0.borrow_mut().directions[self.side].ended = true;
    }
}

impl Transport for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.copy(into)?;
        let state = &mut *self.wire.0.borrow_mut();
        let direction = &mut state.directions[1 - self.side];
        direction.arrived.drain(..bytes);
        if bytes > 0 && std::mem::take(&mut direction.lacked_room) {
            state.events[1 - self.side] = state.events[1 - self.side].with(Ready::WRITE);
        }
        Ok(bytes)
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.copy(into)
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let state = &mut *self.wire.0.borrow_mut();
        let direction = &mut state.directions[self.side];
        if state.is_reset || direction.ended {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let all: usize = from.iter().map(|part| part.len()).sum();
        let free = direction.room.saturating_sub(direction.in_flight.len() + direction.arrived.len());
        let taken = all.min(free);
        direction.lacked_room |= taken < all;
        let mut left = taken;
        for part in from {
            let bytes = part.len().min(left);
            direction.in_flight.extend(&part[..bytes]);
            left -= bytes;
        }
        if taken == 0 && all > 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn connected(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn watch(&self) {}

    fn set_low_water(&self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn can_splice(&self) -> bool {
        true
    }

    fn is_end_clean(&self) -> bool {
        true
    }

    fn shutdown(&mut self) {
        self.end();
    }

    fn has_undelivered(&self) -> bool {
        false
    }

    fn reset_on_close(&mut self) {}

    fn deliver_within(&self, _: Duration) {}

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}
