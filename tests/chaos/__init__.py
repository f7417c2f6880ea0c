"""The real command on real audio, killed with SIGKILL at named points and at random times, and finished.

bomb/sitecustomize.py   what Python imports in every process of a test: kills it, or another, at a named point
bombs.py                which point, and who dies
command.py              the command in a subprocess, with bombs and an end to everything it started
corpus.py               the shipped clips, and masters made of them, so that a run has many tasks
evidence.py             what a lake holds at a moment, and what it must hold in the end
chain.py                one lake through a list of kills to its end
test_*.py               what continuous integration runs
__main__.py             `make chaos`: hundreds of random kills
"""
