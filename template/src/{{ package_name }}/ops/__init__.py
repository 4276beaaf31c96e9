"""What every service on ECS needs and none should write again. Kept by the template."""
