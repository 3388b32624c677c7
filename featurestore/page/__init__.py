"""Reports: one self-contained HTML page that a person opens, prints or sends, with nothing fetched and no script.

Charts are Matplotlib's, as SVG in the page: a chart is drawn once as Matplotlib draws by default, and its colours become
variables of the style sheet (`charts`), so that the same picture reads on a light screen, on a dark one and on paper. Pages
without script cannot fail in a browser, print as they look, and may forbid whatever a label smuggled in (`page`). Bokeh,
which the Dask dashboard needs anyway, would put 1.3 MB of script into each page for zooming, and draw on a canvas that can
neither be printed well nor read aloud; a browser zooms SVG sharply by itself.

Each page has a Jinja template beside the code that fills it. It extends `page.html`, takes sections, tables and charts from
`parts.html`, and gets records (`page.Table`, `page.Chart`), never HTML. Enter by `page.Page`.
"""
