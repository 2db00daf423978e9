"""MuJoCo's scenes seen otherwise, for dm_control and Gymnasium's renderer alike: see `scene.MujocoScene`."""
