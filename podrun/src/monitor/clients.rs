//! Clients: whoever has connected to the door. Each asks once, and is answered in the order in which things happen.

#![forbid(unsafe_code)]

use super::socket::{Arrival, Inbox, Reply, Request, Until, send};
use super::{Count, Monitor, Token};
use crate::error::Error;
use crate::id::ContainerName;
use crate::sys::{cred, socket};
use nix::sys::epoll::EpollFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    inbox: Inbox,
}

impl Monitor {
    pub(super) fn let_in(&mut self) {
        while let Ok(Some(socket)) = socket::accept(self.door.as_fd()) {
            // The socket is 0600 in a directory that only root enters; this is for descriptors that were passed on.
            if socket::peer_uid(socket.as_fd()).ok() != Some(cred::effective_uid()) {
                continue;
            }
            let id = self.id();
            if self.watch(&socket, Token::Client(id), EpollFlags::EPOLLIN).is_ok() {
                self.clients.insert(id, Client { socket, inbox: Inbox::default() });
                self.hear(id);
            }
        }
    }

    pub(super) fn hear(&mut self, id: u64) {
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            match client.inbox.receive::<Request>(client.socket.as_fd()) {
                Ok(Arrival::Message(request, fds)) => self.answer(id, request, fds),
                Ok(Arrival::Incomplete) => return,
                Ok(Arrival::End) => return self.forget_client(id),
                Err(err) => {
                    let err = Error::new(crate::error::Kind::Invalid, "read the request", err);
                    self.reply(id, &Reply::Failed(err.into()), &[]);
                    return self.forget_client(id);
                }
            }
        }
    }

    pub(super) fn forget_client(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            self.unwatch(&client.socket);
        }
        for container in self.containers.values_mut() {
            container.waiters.retain(|waiter| waiter.client != id);
        }
    }

    /// A reply that the client's socket does not take at once is for nobody: replies are small, and the socket empty.
    pub(super) fn reply(&mut self, id: u64, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        let Some(client) = self.clients.get(&id) else { return };
        if send(client.socket.as_fd(), reply, fds).is_err() {
            self.forget_client(id);
        }
    }

    /// Tells those who wait for a container to come this far. Whoever waits for several hears `Done` after the last.
    pub(super) fn tell_waiters(&mut self, name: &ContainerName, reached: impl Fn(Until) -> bool, reply: &Reply) {
        let Some(container) = self.containers.get_mut(name) else { return };
        let (heard, left): (Vec<_>, Vec<_>) = container.waiters.drain(..).partition(|waiter| reached(waiter.until));
        container.waiters = left;
        for waiter in heard {
            match (waiter.count, reply) {
                (Count::One, _) => self.reply(waiter.client, reply, &[]),
                (Count::Several, Reply::Failed(_)) => {
                    self.give_up_waiting(waiter.client);
                    self.reply(waiter.client, reply, &[]);
                }
                (Count::Several, _) => self.done_if_last(waiter.client),
            }
        }
    }

    pub(super) fn done_if_last(&mut self, client: u64) {
        let waits =
            self.containers.values().any(|container| container.waiters.iter().any(|waiter| waiter.client == client));
        if !waits {
            self.reply(client, &Reply::Done, &[]);
        }
    }

    fn give_up_waiting(&mut self, client: u64) {
        for container in self.containers.values_mut() {
            container.waiters.retain(|waiter| waiter.client != client);
        }
    }

    pub(super) fn fail(&mut self, id: u64, err: Error) {
        self.reply(id, &Reply::Failed(err.into()), &[]);
    }
}
