"""The packages of the wheel: folders next to mat_ds in a checkout are inside it in a wheel (mat_ds/config/packaged.py)."""

from setuptools import find_packages, setup

BESIDE = ("ds_configs", "launch", "launch.recipes", "launch.sweeps", "slurm")

setup(
    packages=[*find_packages(include=["mat_ds*"]), *(f"mat_ds.{name}" for name in BESIDE)],
    package_dir={f"mat_ds.{name}": name.replace(".", "/") for name in BESIDE},
    package_data={
        "mat_ds": ["py.typed"],
        "mat_ds.ds_configs": ["*.json"],
        "mat_ds.launch.recipes": ["*.yaml"],
        "mat_ds.launch.sweeps": ["*.yaml"],
        "mat_ds.reports": ["*.yaml", "*.jinja"],
        "mat_ds.sampling": ["*.c"],
        "mat_ds.slurm": ["*.sh", "*.sbatch"],
    },
)
