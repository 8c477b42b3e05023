"""Feedback through forward hooks: setpoints, controllers, disturbances, and what is given back."""
