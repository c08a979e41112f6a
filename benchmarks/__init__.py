"""Speed beside peers: ``python -m benchmarks.layers`` writes results/ and, through benchmarks.report, the page
docs/performance.md.
"""
