"""How fast trainloop is, beside what people use instead: `make bench`, or `python -m benchmarks.speed --help`.

Each peer trains in a process of its own, where it is made and warmed up once. Then, told over a pipe, it trains for a
turn of some steps and answers with the seconds; the others sleep meanwhile. A round is a turn of each. Ratios are taken
within a round, since what else the machine does changes from one to the next; a second copy of the baseline, the
control, shows how much of a ratio is noise.
"""
