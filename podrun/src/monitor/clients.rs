//! Clients: whoever has connected to the door. Each asks once, and is answered in the order in which things happen.

#![forbid(unsafe_code)]

use super::socket::{Arrival, Inbox, Reply, Request, send};
use super::{Monitor, Token};
use crate::error::Error;
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
            container.waiters.retain(|(waiter, _)| *waiter != id);
        }
    }

    /// A reply that the client's socket does not take at once is for nobody: replies are small, and the socket empty.
    pub(super) fn reply(&mut self, id: u64, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        let Some(client) = self.clients.get(&id) else { return };
        if send(client.socket.as_fd(), reply, fds).is_err() {
            self.forget_client(id);
        }
    }

    pub(super) fn fail(&mut self, id: u64, err: Error) {
        self.reply(id, &Reply::Failed(err.into()), &[]);
    }
}
