//! A doubly linked list over the indices of a table.

/// The end of a list.
const NONE: u32 = u32::MAX;

/// Indices in a list from which any member leaves in constant time.
///
/// It serves the idle connections, oldest to newest.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct List {
    links: Vec<Link>,
    first: u32,
    last: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    after: u32,
}

impl List {
    pub(crate) const fn new() -> Self {
        Self {
            links: Vec::new(),
            first: NONE,
            last: NONE,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn first(&self) -> Option<u32> {
        some(self.first)
    }

    pub(crate) fn last(&self) -> Option<u32> {
        some(self.last)
    }

    pub(crate) fn after(&self, index: u32) -> Option<u32> {
        some(self.links[index as usize].after)
    }

    pub(crate) fn before(&self, index: u32) -> Option<u32> {
        some(self.links[index as usize].before)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.first(), |&index| self.after(index))
    }

    /// Puts `index`, which must not be in the list, behind `anchor`, or first where that is none.
    #[inline]
    pub(crate) fn insert_after(&mut self, anchor: Option<u32>, index: u32) {
        if self.links.len() <= index as usize {
            let unlinked = Link {
                before: NONE,
                after: NONE,
            };
            self.links.resize(index as usize + 1, unlinked);
        }
        let after = anchor.map_or(self.first, |anchor| self.links[anchor as usize].after);
        let before = anchor.unwrap_or(NONE);
        self.links[index as usize] = Link { before, after };
        *self.after_slot(before) = index;
        *self.before_slot(after) = index;
        self.len += 1;
    }

    /// Takes out `index`, which must be in the list.
    #[inline]
    pub(crate) fn remove(&mut self, index: u32) {
        let Link { before, after } = self.links[index as usize];
        *self.after_slot(before) = after;
        *self.before_slot(after) = before;
        self.len -= 1;
    }

    #[inline]
    fn after_slot(&mut self, index: u32) -> &mut u32 {
        match index {
            NONE => &mut self.first,
            index => &mut self.links[index as usize].after,
        }
    }

    #[inline]
    fn before_slot(&mut self, index: u32) -> &mut u32 {
        match index {
            NONE => &mut self.last,
            index => &mut self.links[index as usize].before,
        }
    }
}

fn some(index: u32) -> Option<u32> {
    (index != NONE).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_leave_from_anywhere() {
        let mut list = List::new();
        for index in 0..5 {
            list.insert_after(list.last(), index);
        }
        list.remove(2);
        list.remove(0);
        list.remove(4);
        assert_eq!(list.iter().collect::<Vec<_>>(), [1, 3]);
        list.insert_after(None, 4);
        list.insert_after(Some(1), 0);
        assert_eq!(list.iter().collect::<Vec<_>>(), [4, 1, 0, 3]);
        assert_eq!(
            (list.first(), list.last(), list.len()),
            (Some(4), Some(3), 4)
        );
        assert_eq!((list.before(1), list.after(3)), (Some(4), None));
        for index in [4, 3, 1, 0] {
            list.remove(index);
        }
        assert!(list.len() == 0 && list.first().is_none() && list.last().is_none());
    }
}
