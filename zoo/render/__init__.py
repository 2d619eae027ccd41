"""What people look at: model cards, the gallery, charts.

`card.for_folder`, `site.build_site`, `chart.plot_png`.

Imports: models, evaluation, artifact.
"""
