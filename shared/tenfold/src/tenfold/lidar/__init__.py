"""Driving LiDAR: data set readers and the simulator. Import the modules by name; this file loads nothing."""
