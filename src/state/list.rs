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

    pub(crate) fn last(&self) -> Option<u32> {
        some(self.last)
    }

    pub(crate) fn before(&self, index: u32) -> Option<u32> {
        some(self.links[index as usize].before)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let after = |&index: &u32| some(self.links[index as usize].after);
        std::iter::successors(some(self.first), after)
    }

    /// Puts `index`, which must not be in the list, last.
    #[expect(
        clippy::inline_always,
        reason = "a part of each pull or drop, and a tenth of it if it is a call"
    )]
    #[inline(always)]
    pub(crate) fn push(&mut self, index: u32) {
        let link = Link {
            before: self.last,
            after: NONE,
        };
        match self.links.get_mut(index as usize) {
            Some(place) => *place = link,
            None => self.grow(index, link),
        }
        *self.after_slot(link.before) = index;
        self.last = index;
        self.len += 1;
    }

    #[cold]
    fn grow(&mut self, index: u32, link: Link) {
        self.links.resize(index as usize + 1, link);
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
            list.push(index);
        }
        list.remove(2);
        list.remove(0);
        list.remove(4);
        assert_eq!(list.iter().collect::<Vec<_>>(), [1, 3]);
        list.push(4);
        list.push(0);
        assert_eq!(list.iter().collect::<Vec<_>>(), [1, 3, 4, 0]);
        assert_eq!((list.last(), list.len()), (Some(0), 4));
        assert_eq!((list.before(1), list.before(4)), (None, Some(3)));
        for index in [4, 3, 1, 0] {
            list.remove(index);
        }
        assert!(list.len() == 0 && list.iter().next().is_none() && list.last().is_none());
    }
}
