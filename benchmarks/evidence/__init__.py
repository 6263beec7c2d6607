"""Does the mixed strategy help? The queue of runs that answers it, their records, and the table that the records make.

python -m benchmarks.evidence --continue [--limit N] [--only ARM] [--task TASK] [--models FOLDER]
                                      [--data FOLDER]
python -m benchmarks.evidence --table
python -m benchmarks.evidence --figure PNG
python -m benchmarks.evidence --queue
"""
