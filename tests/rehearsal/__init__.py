"""Deployments, rehearsed: a stand-in for ECS runs what a rendered deploy/service.yml says, behind a real proxy.

Tasks are containers. HAProxy is the load balancer. Clients send requests all the time and count those that are lost.
Nothing but the file decides what happens when: a wrong delay in it loses requests here, too.
"""
