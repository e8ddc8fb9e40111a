//! Every number by which kernel state of ours is told from that of others, each with its reason.

/// The nftables table; ours alone, family `inet`.
pub const NFT_TABLE: &str = "braid";

/// The byte of the packet mark that is ours. netifd's examples and fw4 leave the top byte free,
/// mwan3 uses 0x3f00, pbr and tailscale 0x00ff0000.
pub const MARK_MASK: u32 = 0xff00_0000;

/// Mark of packets that belong to an intercepted connection: delivered to us, whatever their
/// address. 0x42 is `B`.
pub const MARK_INTERCEPTED: u32 = 0x4200_0000;

/// Protocol number of our routes and rules (`/etc/iproute2/rt_protos`): 147 is in no list we know.
pub const PROTOCOL: u8 = 147;

/// Table with the one route that delivers intercepted packets locally. The number is our port's.
pub const TABLE_LOCAL: u32 = 4770;

/// Table of the first path; the next paths' follow.
pub const TABLE_FIRST_PATH: u32 = 4771;

/// Most paths a box may have: the tables and priorities set aside for them.
pub const MAX_PATHS: usize = 64;

/// Priority of the rule for intercepted packets. netifd starts at 10000, tailscale sits at 5210
/// to 5270, mwan3 at 1000 to 3000.
pub const PRIORITY_LOCAL: u32 = 4700;

/// Priority of the rules for the first path; the next paths' follow.
pub const PRIORITY_FIRST_PATH: u32 = 4710;

/// Metric of the route that keeps a path's traffic from leaving by another path: the last resort
/// of its table.
pub const METRIC_LAST: u32 = 0xffff_fffe;

/// Segments that a subflow may send at once when it is new and when it has idled, and that it lets
/// the far end send. Linux takes 10 (RFC 6928) and needs three round trips for the first 45 kB; a
/// carrier's subflows take turns with many hosts' short flows, so that most of what they carry is
/// beginnings. 32 are those 45 kB: a burst of 36 ms at 10 Mbit/s, which an access link's buffer holds.
pub const INITIAL_WINDOW: u32 = 32;
