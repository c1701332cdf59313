//! Who may come in: bounds on handshakes under way and on clients, in all and per address.
//!
//! Nodes are only bounded while they shake hands: clients that fill their own bound cannot keep a peer
//! out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts of something per address, with bounds.
#[derive(Debug)]
struct Counts {
    max: usize,
    max_per_address: usize,
    state: Mutex<CountState>,
}

#[derive(Debug, Default)]
struct CountState {
    total: usize,
    per_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
pub(crate) struct Gate {
    handshakes: Arc<Counts>,
    clients: Arc<Counts>,
}

/// A place that is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    counts: Arc<Counts>,
    address: IpAddr,
}

/// What to do with an incoming connection.
#[derive(Debug)]
pub(crate) enum Admission {
    Enter(Place),
    /// It must first prove that its address is its own.
    Prove,
    Refuse,
}

impl Gate {
    pub(crate) fn new(handshakes: (usize, usize), clients: (usize, usize)) -> Self {
        Self {
            handshakes: Counts::new(handshakes),
            clients: Counts::new(clients),
        }
    }

    pub(crate) fn admit(&self, address: IpAddr, proven: bool) -> Admission {
        if !proven && self.handshakes.is_half_full() {
            return Admission::Prove;
        }
        match Counts::enter(&self.handshakes, address) {
            Some(place) => Admission::Enter(place),
            None => Admission::Refuse,
        }
    }

    pub(crate) fn admit_client(&self, address: IpAddr) -> Option<Place> {
        Counts::enter(&self.clients, address)
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients.state.lock().total
    }
}

impl Counts {
    fn new((max, max_per_address): (usize, usize)) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_per_address,
            state: Mutex::default(),
        })
    }

    fn is_half_full(&self) -> bool {
        self.state.lock().total >= self.max.div_ceil(2)
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut state = self.state.lock();
        if state.total >= self.max {
            return None;
        }
        let here = state.per_address.entry(address).or_default();
        if *here >= self.max_per_address {
            return None;
        }
        *here += 1;
        state.total += 1;
        Some(Place {
            counts: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.counts.state.lock();
        state.total -= 1;
        if let Some(here) = state.per_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                state.per_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: with IPv6 a whole /64, which one customer usually has to himself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn an_address_and_all_together_are_bounded() {
        let gate = Gate::new((100, 100), (3, 2));
        let first = gate.admit_client(address(1));
        let second = gate.admit_client(address(1));
        assert!(first.is_some() && second.is_some());
        assert!(gate.admit_client(address(1)).is_none());
        let third = gate.admit_client(address(2));
        assert!(third.is_some());
        assert!(gate.admit_client(address(3)).is_none());
        drop(first);
        assert!(gate.admit_client(address(3)).is_some());
        drop((second, third));
        assert_eq!(gate.clients(), 0);
    }

    #[test]
    fn under_load_an_address_has_to_be_proven() {
        let gate = Gate::new((2, 2), (1, 1));
        let first = gate.admit(address(1), false);
        assert!(matches!(first, Admission::Enter(_)));
        assert!(matches!(gate.admit(address(2), false), Admission::Prove));
        let second = gate.admit(address(2), true);
        assert!(matches!(second, Admission::Enter(_)));
        assert!(matches!(gate.admit(address(3), true), Admission::Refuse));
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        let v6 = |text: &str| network(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::2"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), address(1));
    }
}
