"""What runs: recipe, sources, plan, the Ray Data graph, sink, publish, ledger, report, command line."""
