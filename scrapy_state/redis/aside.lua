-- Move what a worker has leased and can't read out of the way, as one atomic step.
--
-- KEYS     the worker's leases, the list of what can't be read
-- ARGV     lease ids
-- returns  how many there were; the others are not this worker's any more

local moved = 0
for _, id in ipairs(ARGV) do
    local element = redis.call('HGET', KEYS[1], id)
    if element then
        redis.call('RPUSH', KEYS[2], element)
        redis.call('HDEL', KEYS[1], id)
        moved = moved + 1
    end
end
return moved
