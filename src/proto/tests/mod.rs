//! What several tests of this floor share.

pub(crate) mod link;
