"""Keep a store small: `compact` merges segments, `gc` removes what nobody needs."""
