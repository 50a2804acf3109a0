"""Models and data that configs share: functions that return a `launch.Task`."""
