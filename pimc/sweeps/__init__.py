"""Sweeps: points (models, targets, changes, dimensions, mappings) compiled and simulated, each kept when it is done.

spec.py       what a sweep file says              numbers.py   what is kept of a report; objectives
reading.py    from YAML to a plan, every mistake  evaluate.py  one point, in a worker
plan.py       axes, and which points there are    pool.py, cluster.py  who does the work
identity.py   the content hash of a point         store.py     the folder of finished points
search.py     points that depend on earlier ones  run.py       the whole
results.py    the table, CSV, JSON                pareto.py, plot.py   what is not dominated, and its picture
"""
