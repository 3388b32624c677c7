"""The page of one feature set, section by section. Enter by `set_report`; the shell of pages is `featurestore.page`."""
