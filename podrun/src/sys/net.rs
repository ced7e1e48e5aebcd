//! The few network calls that need no netlink: ioctls of netdevice(7).
