"""Recordings of one session, receivers' positions and times → the transmitter's place. No training, no database, no store.

`locate` is the door; its `Located` prints itself, as lines or JSON, and `page.save_page` makes a page of it.
"""
