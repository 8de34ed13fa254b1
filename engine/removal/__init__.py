"""What happens without some training examples: the mathematics, the simulation, its calibration."""
